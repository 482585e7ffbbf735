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
    const ramp = Array.from({ length: LEVELS }, (_, level) =>
      calm.map((c, i) => Math.round(c + ((hot[i] - c) * level) / (LEVELS - 1))));
    this.ramp = ramp.map((rgb) => `rgb(${rgb.join(" ")})`);
    // As pixels without their opacity, which is the highest byte.
    this.shades = Uint32Array.from(ramp, ([r, g, b]) => r | (g << 8) | (b << 16));
    this.states = Array.from({ length: STATE_COLOURS }, (_, i) => style.getPropertyValue(`--state-${i}`).trim());
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
