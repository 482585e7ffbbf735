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

// As much of a text as is drawn in so many pixels with the font that is set: letters are not of one width.
function fitted(ctx, text, pixels) {
  const fits = (shown) => ctx.measureText(shown).width <= pixels;
  const most = clip(text, Math.floor(pixels));
  if (fits(most)) return most;
  let [chars, tooMany] = [0, most.length];
  while (tooMany - chars > 1) {
    const middle = (chars + tooMany) >> 1;
    if (fits(clip(text, middle))) chars = middle;
    else tooMany = middle;
  }
  return clip(text, chars);
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
