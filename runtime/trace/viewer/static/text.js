// Numbers and model text for people.

function number(value) {
  return value.toLocaleString("en");
}

function seconds(value) {
  if (value < 0.1) return `${(value * 1000).toLocaleString("en", { maximumSignificantDigits: 3 })} ms`;
  const digits = value < 1 ? { maximumSignificantDigits: 3 } : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return `${value.toLocaleString("en", digits)} s`;
}

function probability(surprise) {
  const p = Math.exp(-surprise);
  return p >= 0.001 ? p.toPrecision(p > 0.9995 ? 4 : 3) : p.toExponential(1);
}

function plural(count, noun, nouns = `${noun}s`) {
  return `${number(count)} ${count === 1 ? noun : nouns}`;
}

// A token in a cell: white space by signs, if there is nothing else.
function cellText(text) {
  return text.trim() || text.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5").replaceAll(" ", "\u2423");
}

function clip(text, chars) {
  return text.length <= chars ? text : `${text.slice(0, Math.max(chars - 1, 0))}\u2026`;
}

// The last line of a text that says something, where tools put their result.
function lastLine(text, chars = 100) {
  return clip(text.trimEnd().slice(-2 * chars).split("\n").at(-1).trim(), chars);
}

// An element with properties and children; text is never taken as HTML.
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
