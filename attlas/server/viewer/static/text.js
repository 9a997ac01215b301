// The tokens of an axis, fetched by the stretch that is needed.

const STRETCH = 2048;

export class Tokens {
  constructor(asker, where, axis, total, changed) {
    Object.assign(this, { asker, where, axis, total, changed });
    this.stretches = new Map(); // number -> array of tokens, or null while asked
  }

  get(place) {
    return this.stretches.get(Math.floor(place / STRETCH))?.[place % STRETCH] ?? null;
  }

  // tokens [first, end), null where not yet there; asks for those
  range(first, end) {
    const out = [];
    for (let place = Math.max(first, 0); place < Math.min(end, this.total); place += 1) {
      this.need(place);
      out.push(this.get(place));
    }
    return out;
  }

  need(place) {
    const number = Math.floor(place / STRETCH);
    if (place >= 0 && place < this.total && !this.stretches.has(number)) this.fetch(number).catch(() => {});
  }

  // resolves when [first, end) is there
  async wait(first, end) {
    const numbers = [];
    for (let n = Math.floor(first / STRETCH); n * STRETCH < Math.min(end, this.total); n += 1) numbers.push(n);
    await Promise.all(numbers.map((n) => this.fetch(n)));
    return this.range(first, end);
  }

  fetch(number) {
    const held = this.stretches.get(number);
    if (held) return Promise.resolve(held);
    this.asked ??= new Map();
    if (!this.asked.has(number)) {
      this.stretches.set(number, null);
      const start = number * STRETCH;
      const stop = Math.min(start + STRETCH, this.total);
      const asked = this.asker.ask("tokens", { ...this.where, axis: this.axis, start, stop }).then(
        ({ data }) => {
          this.stretches.set(number, data.tokens);
          this.changed();
          return data.tokens;
        },
        (error) => {
          this.asked.delete(number);
          setTimeout(() => this.stretches.delete(number), 3000); // asked again, but not at every frame
          throw error;
        },
      );
      this.asked.set(number, asked);
    }
    return this.asked.get(number);
  }
}
