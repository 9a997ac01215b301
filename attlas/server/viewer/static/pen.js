// What a map's surroundings are drawn with: a canvas, or an SVG with the same words.

export const FONT = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

export class CanvasPen {
  constructor(context) {
    this.context = context;
  }

  rect(x, y, width, height, fill) {
    this.context.fillStyle = fill;
    this.context.fillRect(x, y, width, height);
  }

  frame(x, y, width, height, stroke, thick = 1) {
    this.context.strokeStyle = stroke;
    this.context.lineWidth = thick;
    this.context.strokeRect(x, y, width, height);
  }

  line(x1, y1, x2, y2, stroke, thick = 1) {
    const { context } = this;
    context.strokeStyle = stroke;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
    context.stroke();
  }

  curve(x1, y1, x2, y2, stroke, thick) {
    const { context } = this;
    context.strokeStyle = stroke;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(x1, y1);
    const middle = (x1 + x2) / 2;
    context.bezierCurveTo(middle, y1, middle, y2, x2, y2);
    context.stroke();
  }

  area(points, fill) {
    const { context } = this;
    context.fillStyle = fill;
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.fill();
  }

  text(x, y, words, fill, { align = "left", size = 11, angle = 0, weight = 400 } = {}) {
    const { context } = this;
    context.fillStyle = fill;
    context.font = `${weight} ${size}px ${FONT}`;
    context.textAlign = align;
    context.textBaseline = "middle";
    if (!angle) {
      context.fillText(words, x, y);
      return;
    }
    context.save();
    context.translate(x, y);
    context.rotate(angle);
    context.fillText(words, 0, 0);
    context.restore();
  }

  measure(words, size = 11, weight = 400) {
    this.context.font = `${weight} ${size}px ${FONT}`;
    return this.context.measureText(words).width;
  }

  clipped(x, y, width, height, draw) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    draw();
    context.restore();
  }

  // the map: draw(context) in the pen's own coordinates
  picture(x, y, width, height, draw) {
    this.clipped(x, y, width, height, () => draw(this.context));
  }
}

export class SvgPen {
  constructor(width, height, density = 2) {
    Object.assign(this, { width, height, density, parts: [], clips: 0 });
    this.ruler = document.createElement("canvas").getContext("2d");
  }

  rect(x, y, width, height, fill) {
    this.parts.push(`<rect x="${r(x)}" y="${r(y)}" width="${r(width)}" height="${r(height)}" fill="${fill}"/>`);
  }

  frame(x, y, width, height, stroke, thick = 1) {
    this.parts.push(
      `<rect x="${r(x)}" y="${r(y)}" width="${r(width)}" height="${r(height)}" fill="none" stroke="${stroke}" stroke-width="${thick}"/>`,
    );
  }

  line(x1, y1, x2, y2, stroke, thick = 1) {
    this.parts.push(
      `<line x1="${r(x1)}" y1="${r(y1)}" x2="${r(x2)}" y2="${r(y2)}" stroke="${stroke}" stroke-width="${thick}"/>`,
    );
  }

  curve(x1, y1, x2, y2, stroke, thick) {
    const middle = r((x1 + x2) / 2);
    this.parts.push(
      `<path d="M${r(x1)},${r(y1)} C${middle},${r(y1)} ${middle},${r(y2)} ${r(x2)},${r(y2)}" fill="none" stroke="${stroke}" stroke-width="${r(thick)}"/>`,
    );
  }

  area(points, fill) {
    this.parts.push(`<polygon points="${points.map(([x, y]) => `${r(x)},${r(y)}`).join(" ")}" fill="${fill}"/>`);
  }

  text(x, y, words, fill, { align = "left", size = 11, angle = 0, weight = 400 } = {}) {
    const anchor = { left: "start", right: "end", center: "middle" }[align];
    const turn = angle ? ` transform="rotate(${r((angle * 180) / Math.PI)} ${r(x)} ${r(y)})"` : "";
    this.parts.push(
      `<text x="${r(x)}" y="${r(y)}" dy="0.35em" fill="${fill}" font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" xml:space="preserve"${turn}>${escapeXml(words)}</text>`,
    );
  }

  measure(words, size = 11, weight = 400) {
    this.ruler.font = `${weight} ${size}px ${FONT}`;
    return this.ruler.measureText(words).width;
  }

  clipped(x, y, width, height, draw) {
    const name = `clip${(this.clips += 1)}`;
    this.parts.push(
      `<clipPath id="${name}"><rect x="${r(x)}" y="${r(y)}" width="${r(width)}" height="${r(height)}"/></clipPath>`,
      `<g clip-path="url(#${name})">`,
    );
    draw();
    this.parts.push("</g>");
  }

  picture(x, y, width, height, draw) {
    const { density } = this;
    const canvas = Object.assign(document.createElement("canvas"), {
      width: Math.ceil(width * density),
      height: Math.ceil(height * density),
    });
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.translate(-x, -y);
    draw(context);
    this.parts.push(
      `<image x="${r(x)}" y="${r(y)}" width="${r(width)}" height="${r(height)}" href="${canvas.toDataURL("image/png")}"/>`,
    );
  }

  finish() {
    const { width, height } = this;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${escapeXml(FONT)}">${this.parts.join("")}</svg>`;
  }
}

function r(number) {
  return Math.round(number * 100) / 100;
}

// letters that XML cannot hold at all, as sign of one that is missing
function escapeXml(words) {
  return words
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ud800-\udfff\ufffe\uffff]/gu, "\ufffd")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}
