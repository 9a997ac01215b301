// Colours of weights: tables of 256 colours for the 256 codes of a tile. Masked is one neutral colour in all of them.

// 33 colours each, evenly apart; all are in order of lightness, and told apart by the colour-blind
const ANCHORS = {
  viridis:
    "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e219" +
    "18c1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725",
  cividis:
    "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f70737676767d7" +
    "c788482798c8878938e789b9476a39a74aba072b4a76fbcae6cc4b468cdbb63d5c25edec958e7d150f0d846f9e03afee838",
  grey: "ffffff161616",
  greyDark: "0c0d10f4f4f4",
  difference: "8c4a04c26a14e39a4ff2c999f7f7f79fc6e35a9bcf2a6fae0c4478",
  differenceDark: "ffb25ce08a2fa85f1a5c3a1c1b1d222040602a6ba34f9ad6a3d4ff",
};
export const MASKED = { light: "#dde1e7", dark: "#2c323d" };
const LEAST = -5; // log10 of the least weight that a code tells

export function anchors(name) {
  const hex = ANCHORS[name];
  const colours = [];
  for (let i = 0; i < hex.length; i += 6) {
    colours.push([0, 2, 4].map((j) => Number.parseInt(hex.slice(i + j, i + j + 2), 16)));
  }
  return colours;
}

function ramp(name) {
  const stops = anchors(name);
  return (t) => {
    const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((value, c) => value + (stops[i + 1][c] - value) * (at - i));
  };
}

// the weight that a code stands for; null where masked
export function valueOf(code) {
  if (code === 0) return null;
  return code === 1 ? 0 : 10 ** (((code - 1) / 254) * 5 + LEAST);
}

// a difference of two weights as a code: 128 none, above the first is larger, below the second; 0 masked
export function differenceCode(difference) {
  if (Number.isNaN(difference)) return 0;
  const size = Math.abs(difference);
  if (size <= 1e-5) return 128;
  const steps = Math.min(Math.round((127 * (Math.log10(size) - LEAST)) / 5), 127);
  return difference > 0 ? 128 + steps : 128 - steps;
}

export function differenceOf(code) {
  if (code === 0) return null;
  const steps = Math.abs(code - 128);
  return steps === 0 ? 0 : Math.sign(code - 128) * 10 ** ((steps / 127) * 5 + LEAST);
}

// how far along the colours a weight lies, 0 to 1
export function position(value, { scale, low, high }) {
  if (scale === "linear") return value / high;
  return value <= low ? 0 : Math.log(value / low) / Math.log(high / low);
}

export function colourOf(value, settings, dark) {
  return ramp(rampName(settings.colours, dark))(position(value, settings)).map(Math.round);
}

function rampName(colours, dark) {
  return colours === "grey" && dark ? "greyDark" : colours;
}

export function css([r, g, b]) {
  return `rgb(${r}, ${g}, ${b})`;
}

// black or white letters on a colour
export function inkOn([r, g, b]) {
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111318" : "#ffffff";
}

// code -> RGBA as one number, in the order of bytes that a canvas has
export function makeTable(settings, dark, difference) {
  const masked = MASKED[dark ? "dark" : "light"];
  const rgb = [1, 3, 5].map((i) => Number.parseInt(masked.slice(i, i + 2), 16));
  const colour = ramp(difference ? (dark ? "differenceDark" : "difference") : rampName(settings.colours, dark));
  const bytes = new Uint8ClampedArray(1024);
  for (let code = 0; code < 256; code += 1) {
    let shade = rgb;
    if (code > 0 && difference) {
      const value = differenceOf(code);
      shade = colour(0.5 + 0.5 * Math.sign(value) * Math.min(position(Math.abs(value), settings), 1));
    } else if (code > 0) {
      shade = colour(position(valueOf(code), settings));
    }
    bytes.set([...shade, 255], 4 * code);
  }
  return new Uint32Array(bytes.buffer);
}

// half precision, for browsers that have no Float16Array
let halves = null;
export function floatsOfHalves(bytes) {
  if (halves === null) {
    halves = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits += 1) {
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      let value = exponent === 31 ? (fraction ? NaN : Infinity) : 2 ** (exponent - 15) * (1 + fraction / 1024);
      if (exponent === 0) value = 2 ** -14 * (fraction / 1024);
      halves[bits] = bits & 32768 ? -value : value;
    }
  }
  const bits = new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  return Float32Array.from(bits, (value) => halves[value]);
}
