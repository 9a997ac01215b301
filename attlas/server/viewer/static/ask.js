// Questions and their answers over a model's messages: each promise is settled, by an answer, an error or the clock.

const PATIENCE = 30000; // ms

export class AskError extends Error {
  constructor(message, type = "", status = 0) {
    super(message);
    this.type = type;
    this.status = status;
  }
}

export function isAborted(error) {
  return error instanceof AskError && error.type === "Aborted";
}

export class Asker {
  constructor(model, patience = PATIENCE) {
    this.model = model;
    this.patience = patience;
    this.waiting = new Map();
    this.name = Math.random().toString(36).slice(2, 8); // several views may share one line
    this.count = 0;
    this.asked = 0;
    this.receive = (reply, buffers) => this.settle(reply, buffers);
    model.on("msg:custom", this.receive);
  }

  // -> {data, buffers: [Uint8Array]}; rejects with AskError
  ask(op, args = {}, signal = null) {
    const id = `${this.name}-${(this.count += 1)}`;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(new AskError("no longer asked", "Aborted"));
        return;
      }
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        this.model.send({ id: `${id}-c`, op: "cancel", target: id });
        const seconds = this.patience / 1000;
        reject(new AskError(
          `no answer to "${op}" in ${seconds} s: the server is busy or gone; look at its terminal (in a notebook: wait for the running cell), then try again`,
          "TimeOut",
        ));
      }, this.patience);
      this.waiting.set(id, { resolve, reject, timer });
      signal?.addEventListener("abort", () => {
        if (!this.waiting.has(id)) return;
        clearTimeout(timer);
        this.waiting.delete(id);
        this.model.send({ id: `${id}-c`, op: "cancel", target: id });
        reject(new AskError("no longer asked", "Aborted"));
      }, { once: true });
      this.asked += 1;
      this.model.send({ id, op, ...args });
    });
  }

  settle(reply, buffers = []) {
    const held = reply && this.waiting.get(reply.id);
    if (!held) return;
    clearTimeout(held.timer);
    this.waiting.delete(reply.id);
    if (reply.ok) {
      held.resolve({ data: reply.data, buffers: buffers.map(bytesOf) });
    } else {
      const error = reply.error || {};
      held.reject(new AskError(error.message || "an error without words", error.type, error.status));
    }
  }

  close() {
    this.model.off?.("msg:custom", this.receive);
    for (const held of this.waiting.values()) clearTimeout(held.timer);
    this.waiting.clear();
  }
}

function bytesOf(buffer) {
  if (buffer instanceof ArrayBuffer) return new Uint8Array(buffer);
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

// float32 numbers of a buffer, wherever it begins
export function floatsOf(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}
