// One message on the page: its text, what can be done with it, and how its answer went.
import { copyText } from "./clipboard.js";
import { element } from "./dom.js";
import { count, rate, seconds } from "./format.js";
import { icon, iconButton } from "./icons.js";
import { showMarkdown } from "./markdown.js";
import { message as notify } from "./notices.js";

async function copy(text, button) {
  if (!(await copyText(text))) {
    notify("The browser did not allow to copy.");
    return;
  }
  button.replaceChildren(icon("check"), ...(button.dataset.words ? ["Copied"] : []));
  setTimeout(() => button.replaceChildren(icon("copy"), ...(button.dataset.words ? ["Copy"] : [])), 1500);
}

/** Gives each code block its language and a button that copies it. */
function decorateCode(block) {
  for (const pre of block.querySelectorAll("pre")) {
    const code = pre.querySelector("code") ?? pre;
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    const button = element(
      "button",
      { type: "button", class: "copy-code", "data-words": "yes", on: { click: () => copy(code.textContent, button) } },
      icon("copy"),
      "Copy",
    );
    pre.tabIndex = 0;
    const head = element("div", { class: "code-head" }, element("span", { text: language }), button);
    const box = element("div", { class: "code" });
    pre.replaceWith(box);
    box.append(head, pre);
  }
  for (const table of block.querySelectorAll("table")) {
    const box = element("div", { class: "wide-table", tabindex: "0" });
    table.replaceWith(box);
    box.append(table);
  }
}

/** The figures of a complete answer. */
function figures({ usage, timings, firstToken }) {
  const parts = [];
  if (timings?.decode_tokens_per_second) parts.push(`${rate(timings.decode_tokens_per_second)} tokens/s`);
  const first = timings?.first_token_seconds ?? firstToken;
  if (first !== undefined) parts.push(`first token ${seconds(first)}`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(count(usage.completion_tokens, "token"));
    parts.push(`prompt ${usage.prompt_tokens}${cached > 0 ? ` (${cached} cached)` : ""}`);
  }
  return parts;
}

export class MessageView {
  #message;
  #act;
  #editing = false;

  /**
   * `act` does what the buttons say: regenerate(message), edit(message, text), show(message), goOn(message) where
   * canGoOn(message), fix(message) after a failure with fixLabel(message) as its name, siblings(message),
   * liveRate(message), limit(message) as a sentence, draft(message) and keepDraft(message, text) of an edit.
   */
  constructor(message, act) {
    this.#message = message;
    this.#act = act;
    const own = message.role === "user";
    this.body = element("div", { class: "body" });
    this.problem = element("div", { class: "problem", role: "alert", hidden: true });
    this.stats = element("p", { class: "stats" });
    this.variants = element("span", { class: "variants" });
    this.copy = iconButton("copy", "Copy", () => copy(this.#message.content, this.copy));
    this.again = own
      ? iconButton("edit", "Edit and send again", () => this.#edit(this.#message.content))
      : iconButton("retry", "Another answer", () => act.regenerate(this.#message));
    this.more = own
      ? null
      : element("button", {
          type: "button",
          class: "text-button",
          text: "Go on",
          on: { click: () => act.goOn(this.#message) },
        });
    this.actions = element("div", { class: "actions" }, this.variants, this.copy, this.again, this.more);
    this.foot = element("div", { class: "foot" }, this.actions, this.stats);
    const who = own
      ? element("h2", { class: "visually-hidden", text: "You" })
      : element("h2", { class: "who" }, element("span", { class: "logo" }), message.model);
    this.node = element(
      "article",
      { class: `message ${own ? "user" : "assistant"}`, "data-id": message.id },
      who,
      this.body,
      this.problem,
      this.foot,
    );
    const draft = own ? act.draft(message) : null;
    if (draft !== null) this.#edit(draft, false);
    this.update();
  }

  update() {
    const message = this.#message;
    if (message.role === "user") {
      if (!this.#editing && this.body.textContent !== message.content) this.body.textContent = message.content;
    } else {
      showMarkdown(this.body, message.content, decorateCode);
    }
    this.node.dataset.state = message.state ?? "done";
    const running = message.state === "streaming" || message.state === "waiting";
    this.node.setAttribute("aria-busy", running);
    this.node.classList.toggle("unwritten", message.state === "streaming" && message.content === "");
    this.actions.hidden = running || this.#editing;
    this.copy.hidden = message.content === "";
    // A failed answer has its own button to try again.
    this.again.hidden = message.state === "failed";
    if (this.more) this.more.hidden = !this.#act.canGoOn(message);
    this.#showVariants();
    this.#showStats();
    this.#showProblem();
    this.foot.hidden = message.state === "failed" && message.content === "" && !this.variants.hasChildNodes();
  }

  #showVariants() {
    const all = this.#act.siblings(this.#message);
    if (all.length < 2) {
      this.variants.replaceChildren();
      return;
    }
    const at = all.indexOf(this.#message);
    const step = (name, label, target) =>
      iconButton(name, label, () => this.#act.show(target), target ? {} : { disabled: true });
    this.variants.replaceChildren(
      step("left", "Earlier version", all[at - 1]),
      element("span", { "aria-label": `Version ${at + 1} of ${all.length}`, text: `${at + 1}/${all.length}` }),
      step("right", "Later version", all[at + 1]),
    );
  }

  #showStats() {
    const message = this.#message;
    let parts = [];
    if (message.state === "waiting") {
      const left = Math.max(1, Math.ceil((message.waitUntil - Date.now()) / 1000));
      parts = [`The server is busy. Trying again in ${left} s; Esc stops.`];
    } else if (message.state === "streaming") {
      const live = this.#act.liveRate(message);
      parts = message.content === "" ? ["Reading the prompt…"] : live === null ? [] : [`≈ ${rate(live)} tokens/s`];
    } else if (message.role === "assistant") {
      parts = figures(message);
      if (message.state === "stopped") parts.unshift("Stopped");
      if (message.state === "interrupted") parts.unshift("Interrupted: the page was closed while this was written");
      if (message.finish === "length") parts.push(this.#act.limit(message));
    }
    this.stats.replaceChildren(...parts.map((text) => element("span", { text })));
  }

  #showProblem() {
    const { state, error } = this.#message;
    const failed = state === "failed";
    if (this.problem.hidden === !failed) return;
    this.problem.hidden = !failed;
    if (!failed) return;
    const button = (label, run, kind) =>
      element("button", { type: "button", class: kind, text: label, on: { click: run } });
    const fix = this.#act.fixLabel(this.#message);
    this.problem.replaceChildren(
      icon("warning"),
      element("p", { text: error.text }),
      element(
        "div",
        { class: "row" },
        fix ? button(fix, () => this.#act.fix(this.#message), "primary-button") : null,
        button("Try again", () => this.#act.regenerate(this.#message), fix ? "text-button" : "primary-button"),
      ),
    );
  }

  #edit(text, focus = true) {
    const area = element("textarea", { class: "edit", "aria-label": "Edit the message", rows: 1 });
    const fit = () => {
      area.style.height = "auto";
      area.style.height = `${area.scrollHeight + 2}px`;
    };
    const leave = () => {
      this.#editing = false;
      this.#act.keepDraft(this.#message, null);
      this.node.classList.remove("editing");
      this.body.textContent = this.#message.content;
      this.update();
    };
    const cancel = () => {
      leave();
      this.again.focus();
    };
    const send = () => {
      const edited = area.value;
      if (edited.trim() === "") {
        area.focus();
        return;
      }
      leave();
      this.#act.edit(this.#message, edited);
    };
    area.value = text;
    area.addEventListener("input", () => {
      fit();
      this.#act.keepDraft(this.#message, area.value);
    });
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        cancel();
      }
    });
    this.#editing = true;
    this.node.classList.add("editing");
    this.body.replaceChildren(
      area,
      element(
        "div",
        { class: "row end" },
        element("button", { type: "button", class: "text-button", text: "Cancel", on: { click: cancel } }),
        element("button", { type: "button", class: "primary-button", text: "Send", on: { click: send } }),
      ),
    );
    this.actions.hidden = true;
    requestAnimationFrame(() => {
      fit();
      if (focus) area.focus();
    });
  }
}
