// Hands on a map: drag, wheel, two fingers, a click.

import { lineAt } from "./lines.js";

const STILL = 4; // pixels that a click may move

// hooks: changed(), settled(), hover(pane, cell), pick(pane, cell, event)
export function handle(pane, camera, state, wheelIsOurs, hooks) {
  const { canvas } = pane;
  const held = new Map();
  let travelled = 0;
  let apart = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const lines = () => state.get("show") === "lines";
  const under = (event) => (lines() ? lineAt(pane, ...at(event)) : pane.cellAt(...at(event)));

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    travelled = 0;
    apart = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) {
      hooks.hover(pane, under(event));
      return;
    }
    const now = at(event);
    held.set(event.pointerId, now);
    if (held.size === 2) {
      const [a, b] = [...held.values()];
      const distance = Math.hypot(a[0] - b[0], a[1] - b[1]);
      const { x, y } = pane.inner();
      if (apart > 0) camera.zoom(distance / apart, (a[0] + b[0]) / 2 - x, (a[1] + b[1]) / 2 - y);
      apart = distance;
      travelled += STILL;
    } else {
      const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
      travelled += Math.abs(dx) + Math.abs(dy);
      if (travelled > STILL) {
        canvas.classList.add("att-dragged");
        if (lines()) scroll(pane, camera, -dy / 19);
        else camera.pan(dx, dy);
      }
    }
    hooks.changed();
  });
  const up = (event) => {
    if (!held.delete(event.pointerId)) return;
    canvas.classList.remove("att-dragged");
    if (event.type === "pointerup" && travelled <= STILL) hooks.pick(pane, under(event), event);
    else hooks.settled();
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => hooks.hover(pane, null));
  canvas.addEventListener("wheel", (event) => {
    if (!wheelIsOurs() && !event.ctrlKey && !event.metaKey && document.activeElement !== canvas && canvas.getRootNode().activeElement !== canvas) return;
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (lines()) {
      scroll(pane, camera, (event.deltaY * unit) / 40);
    } else if (event.shiftKey) {
      camera.pan(-(event.deltaX + event.deltaY) * unit, 0);
    } else {
      const { x, y } = pane.inner();
      const [px, py] = at(event);
      camera.zoom(Math.exp(-Math.max(Math.min(event.deltaY * unit, 240), -240) * 0.0022), px - x, py - y);
    }
    hooks.changed();
    hooks.hover(pane, under(event)); // what lies there now
    hooks.settled();
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => event.preventDefault());
}

// by rows of the lines view
export function scroll(pane, camera, rows) {
  camera.y = Math.min(Math.max(camera.y + rows, 0), Math.max(camera.queries - 4, 0));
  if (!pane.page.facts.same_axis) camera.x = Math.min(Math.max(camera.x + rows, 0), Math.max(camera.keys - 4, 0));
  camera.moved = true;
}
