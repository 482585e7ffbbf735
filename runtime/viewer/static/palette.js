// Colours, from the style sheet's custom properties, so that light and dark themes are defined in one place.

const LEVELS = 12;
const SURPRISED = 3;  // Nats at which the shading ends: a probability of 5 %.

const COLOURS = ["ink", "soft", "faint", "line", "paper", "panel", "calm", "hot", "plain", "on-hot", "prompt", "injected",
  "fork", "join", "lost", "live", "pruned", "select", "match"];

class Palette {
  constructor(element) {
    const style = getComputedStyle(element);
    for (const name of COLOURS) this[name.replace("-", "_")] = style.getPropertyValue(`--${name}`).trim();
    const calm = parseColour(this.calm), hot = parseColour(this.hot);
    this.ramp = Array.from({ length: LEVELS }, (_, level) => {
      const part = level / (LEVELS - 1);
      return `rgb(${calm.map((c, i) => Math.round(c + (hot[i] - c) * part)).join(" ")})`;
    });
    this.mono = style.getPropertyValue("--mono").trim();
    this.sans = style.fontFamily;
  }
}

function parseColour(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

// Shade of a mean surprise in nats. The root spreads the shades: most tokens are nearly certain.
function level(surprise) {
  return Math.min(Math.round(Math.sqrt(surprise / SURPRISED) * (LEVELS - 1)), LEVELS - 1);
}
