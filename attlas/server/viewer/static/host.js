// A model over HTTP: what a notebook's comm does, with fetch and the address bar.

import { fromHash, isStep, same, toHash } from "./state.js";

export class HttpModel {
  constructor(address = "v1/ask") {
    this.address = address;
    this.listeners = new Map();
    this.requests = new Map();
    this.values = fromHash(location.hash);
    this.written = { ...this.values };
    addEventListener("hashchange", () => this.read());
    addEventListener("popstate", () => this.read());
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    if (same(this.values[name], value)) return;
    this.values[name] = value;
    this.fire(`change:${name}`);
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  off(event, listener) {
    this.listeners.set(event, (this.listeners.get(event) ?? []).filter((one) => one !== listener));
  }

  fire(event, ...given) {
    for (const listener of this.listeners.get(event) ?? []) listener(...given);
  }

  // to the address bar, as a step that "back" undoes where another head or document is shown
  save_changes() {
    const hash = `#${toHash(this.values)}`;
    if (hash === location.hash || (hash === "#" && !location.hash)) return;
    const call = isStep(this.written, this.values) ? "pushState" : "replaceState";
    history[call](null, "", hash);
    this.written = { ...this.values };
  }

  read() {
    const found = fromHash(location.hash);
    this.written = { ...found };
    // atlas, document and kind of a link that names none are those that are shown
    for (const name of ["atlas", "document", "kind"]) if (found[name] === "") found[name] = this.values[name];
    const changed = Object.keys(found).filter((name) => !same(found[name], this.values[name]));
    for (const name of changed) this.values[name] = found[name];
    for (const name of changed) this.fire(`change:${name}`);
  }

  send(message) {
    if (message.op === "cancel") {
      this.requests.get(message.target)?.abort();
      return;
    }
    const control = new AbortController();
    this.requests.set(message.id, control);
    this.ask(message, control.signal)
      .catch((error) => {
        if (control.signal.aborted) return;
        this.fail(message.id, `no connection: ${error.message}; is the server still running? Start it again, then try again`);
      })
      .finally(() => this.requests.delete(message.id));
  }

  async ask(message, signal) {
    const answer = await fetch(this.address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(message),
      credentials: "same-origin",
      signal,
    });
    const kind = answer.headers.get("Content-Type") ?? "";
    if (!kind.startsWith("application/octet-stream")) {
      const problem = kind.includes("json") ? await answer.json() : {};
      const remedy = answer.status === 401 ? " (open the address that the server printed, with its token)" : "";
      this.fail(message.id, (problem.detail ?? `the server answers ${answer.status}`) + remedy, answer.status);
      return;
    }
    const body = await answer.arrayBuffer();
    const end = 4 + new DataView(body).getUint32(0, true);
    const reply = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, end - 4)));
    let start = end;
    const buffers = (reply.buffers ?? []).map((length) => {
      start += length;
      return new Uint8Array(body, start - length, length);
    });
    this.fire("msg:custom", reply, buffers);
  }

  fail(id, message, status = 0) {
    this.fire("msg:custom", { id, ok: false, error: { type: "ConnectionError", message, status } }, []);
  }
}
