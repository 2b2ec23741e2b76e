// What the server is doing: tokens per second with a chart, load, and the model's device and placement.
import { Chart } from "./chart.js";
import { byId, element } from "./dom.js";
import { count, rate } from "./format.js";

/** What the pages of the key-value cache are used for. */
function cache({ pages, free_pages: free, retained_pages: kept }) {
  return `${pages - free - kept} of ${count(pages, "page")} in use${kept > 0 ? `, ${kept} kept for reuse` : ""}`;
}

export class ServerCard {
  /** Tokens and time of the last status. */
  #last = null;

  #chart = new Chart(byId("chart"), (ceiling) => {
    byId("chart-top").textContent = ceiling === 0 ? "" : `${ceiling}`;
  });

  /** Tokens per second since the last status, which short answers count in too. */
  #speed(status) {
    const now = { tokens: status.generated_tokens, time: performance.now() };
    const last = this.#last;
    this.#last = now;
    const passed = last ? (now.time - last.time) / 1000 : 0;
    // A server that was started anew counts from 0.
    return passed > 0.5 && now.tokens >= last.tokens ? (now.tokens - last.tokens) / passed : status.tokens_per_second;
  }

  /** Shows a status of the server and of the model with this id. */
  show(status, modelId) {
    const { running, queued } = status.requests;
    byId("server").hidden = false;
    const speed = this.#speed(status);
    byId("server-rate").textContent = rate(speed);
    byId("server-load").textContent =
      running + queued === 0 ? "idle" : `${running} running${queued > 0 ? `, ${queued} waiting` : ""}`;
    this.#chart.push(speed);
    byId("chart").setAttribute(
      "aria-label",
      `Tokens per second in the last two minutes; now ${rate(speed)}`,
    );
    const model = status.models.find(({ id }) => id === modelId) ?? status.models[0];
    const facts = [];
    if (model) {
      facts.push(
        ["Device", model.backend],
        ["Placement", model.placement],
        ["Model", `${model.architecture}, context ${model.context}`],
        // Most devices name their kernels themselves.
        ["Kernels", model.backend.includes(model.kernels) ? "" : model.kernels],
        ["Cache", model.kv && cache(model.kv)],
      );
    }
    facts.push(["Version", `Sterna ${status.version}`]);
    byId("server-facts").replaceChildren(
      ...facts
        .filter(([, value]) => value)
        .map(([name, value]) =>
          element("div", { title: `${name}: ${value}` }, element("dt", { text: name }), element("dd", { text: value })),
        ),
    );
  }

  /** No status could be had. */
  gone() {
    byId("server-rate").textContent = "–";
    byId("server-load").textContent = "no answer";
    this.#chart.push(null);
  }
}
