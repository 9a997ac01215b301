// Numbers and tokens as people read them. Nothing here makes markup: what comes out is set as text.

const BLANKS = { "\n": "⏎", "\r": "⏎", "\t": "⇥" };

export function count(number) {
  return Math.round(number).toLocaleString("en-US");
}

export function weight(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "masked";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001) return value.toFixed(size >= 0.9995 ? 3 : 4);
  return value.toExponential(2).replace("e-", "e−").replace(/^-/, "−");
}

// a token as a label: whether a blank goes before it (drawn as a faint dot), and its letters on one line
export function label(token, most = 16) {
  if (token === null || token === undefined) return { dot: false, text: "" };
  const dot = token.length > 1 && token.startsWith(" ");
  let letters = [...(dot ? token.slice(1) : token)].map((letter) => BLANKS[letter] ?? letter).join("");
  if (letters.trim() === "") letters = letters.length > 1 ? `␣${letters.length}` : "␣";
  return { dot, text: letters.length > most ? `${letters.slice(0, most - 1)}…` : letters };
}

export function quoted(token) {
  const { text } = label(token, 28);
  return text === "" ? "" : `“${text}”`;
}

// a run of tokens on one line
export function oneLine(tokens, most = 60) {
  const text = tokens.map((token) => token ?? "").join("");
  const line = text.replace(/([^\p{L}\p{N}\s])\1{2,}/gu, "").replace(/\s+/g, " ").trim(); // no rulings of stars
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}

export function headTitle(layer, head) {
  return head === "mean" ? `layer ${layer}, mean over heads` : `layer ${layer}, head ${head}`;
}

// a round number near `least`, and not below it
export function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  for (const factor of [1, 2, 5]) if (factor * power >= least) return factor * power;
  return 10 * power;
}

export function element(tag, className = "", text = null, attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export function later(ms, call) {
  let timer = 0;
  const run = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), ms);
  };
  run.drop = () => clearTimeout(timer);
  return run;
}
