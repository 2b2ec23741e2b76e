// A small line chart of the last two minutes of tokens per second.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 56;
const SAMPLES = 60;

/** The smallest of 1, 2, 5, 10, 20, 50 … that is not below `value`; 0 where nothing was measured. */
function niceCeiling(value) {
  if (value <= 0) return 0;
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export class Chart {
  #values = [];
  #line;
  #area;

  /** Draws into `container`; `describe(ceiling)` is told the value at the top edge when it changes. */
  constructor(container, describe) {
    this.describe = describe;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    this.#area = svg.appendChild(document.createElementNS(SVG, "path"));
    this.#area.setAttribute("class", "chart-area");
    this.#line = svg.appendChild(document.createElementNS(SVG, "path"));
    this.#line.setAttribute("class", "chart-line");
    container.append(svg);
  }

  /** Adds a value at the right edge; null is a time without a measurement. */
  push(value) {
    this.#values.push(value);
    if (this.#values.length > SAMPLES) this.#values.shift();
    this.#draw();
  }

  #draw() {
    const ceiling = niceCeiling(Math.max(0, ...this.#values.filter((value) => value !== null)));
    this.describe(ceiling);
    const left = SAMPLES - this.#values.length;
    const x = (index) => (((left + index) / (SAMPLES - 1)) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 1.5 - (ceiling === 0 ? 0 : value / ceiling) * (HEIGHT - 4)).toFixed(1);
    let line = "";
    let area = "";
    let start = null;
    this.#values.forEach((value, index) => {
      if (value === null) {
        start = null;
        return;
      }
      line += `${start === null ? "M" : "L"}${x(index)} ${y(value)}`;
      start ??= index;
      const last = index === this.#values.length - 1 || this.#values[index + 1] === null;
      if (last) {
        const top = this.#values.slice(start, index + 1).map((each, step) => `L${x(start + step)} ${y(each)}`);
        area += `M${x(start)} ${HEIGHT}${top.join("")}L${x(index)} ${HEIGHT}Z`;
      }
    });
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
  }
}
