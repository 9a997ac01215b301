// Which keys and queries are seen, and how large: shared by maps that move together.

const LARGEST = 64; // pixels a token

export class Camera {
  constructor() {
    Object.assign(this, { x: 0, y: 0, sx: 1, sy: 1, width: 1, height: 1, queries: 1, keys: 1, moved: false });
  }

  // pixels of the map itself, without its axes; keeps what is seen, or shows all until somebody has moved
  resize(width, height) {
    if (width === this.width && height === this.height) return false;
    const seen = this.region();
    Object.assign(this, { width: Math.max(width, 1), height: Math.max(height, 1) });
    if (this.moved) this.show(seen.queries, seen.keys);
    else this.fit();
    return true;
  }

  of(queries, keys) {
    Object.assign(this, { queries, keys });
  }

  fit() {
    this.show([0, this.queries], [0, this.keys]);
    this.moved = false;
  }

  // a square cell, but where the two sizes are so unlike that one would vanish
  show([top, bottom], [left, right]) {
    const sx = this.width / (right - left);
    const sy = this.height / (bottom - top);
    const alike = Math.max(sx, sy) / Math.min(sx, sy) < 4;
    const most = (scale) => Math.min(scale, LARGEST);
    [this.sx, this.sy] = alike ? [most(Math.min(sx, sy)), most(Math.min(sx, sy))] : [most(sx), most(sy)];
    this.x = left - Math.max(0, (this.width / this.sx - (right - left)) / 2);
    this.y = top - Math.max(0, (this.height / this.sy - (bottom - top)) / 2);
    if (left <= 0 && right >= this.keys) this.x = 0;
    if (top <= 0 && bottom >= this.queries) this.y = 0;
    this.moved = true;
    this.hold();
  }

  // the map stays in sight
  hold() {
    const bound = (at, span, total) => {
      const slack = span * 0.25;
      return span >= total ? Math.min(Math.max(at, total - span), 0) : Math.min(Math.max(at, -slack), total - span + slack);
    };
    this.x = bound(this.x, this.width / this.sx, this.keys);
    this.y = bound(this.y, this.height / this.sy, this.queries);
  }

  pan(dx, dy) {
    this.x -= dx / this.sx;
    this.y -= dy / this.sy;
    this.moved = true;
    this.hold();
  }

  // about a place of the map, in pixels
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [key, query] = [this.x + px / this.sx, this.y + py / this.sy];
    const whole = Math.min(this.width / this.keys / this.sx, this.height / this.queries / this.sy);
    const bounded = Math.min(Math.max(factor, whole / 1.15), LARGEST / Math.max(this.sx, this.sy));
    this.sx *= bounded;
    this.sy *= bounded;
    this.x = key - px / this.sx;
    this.y = query - py / this.sy;
    this.moved = true;
    this.hold();
  }

  centre(query, key, scale = null) {
    if (scale !== null) this.sx = this.sy = Math.min(scale, LARGEST);
    this.x = key - this.width / this.sx / 2;
    this.y = query - this.height / this.sy / 2;
    this.moved = true;
    this.hold();
  }

  region() {
    const clip = (at, span, total) => [Math.max(at, 0), Math.min(at + span, total)];
    return {
      queries: clip(this.y, this.height / this.sy, this.queries),
      keys: clip(this.x, this.width / this.sx, this.keys),
    };
  }

  // the finest level of which each block has a pixel of the screen: no weight is left out between two pixels
  level(top, density) {
    const scale = Math.max(this.sx, this.sy) * density;
    return Math.min(Math.max(Math.ceil(Math.log2(1 / scale) - 0.01), 0), top);
  }
}
