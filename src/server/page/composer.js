// The field where messages are written, and the button beside it that sends or stops.
import { byId } from "./dom.js";
import { icon } from "./icons.js";
import { announce } from "./notices.js";

export class Composer {
  #area = byId("composer");
  #button = byId("send");
  #running = false;

  /** `send(text)` returns whether the text was taken; `stop()` ends the answer; `draft(text)` is told each change. */
  constructor({ send, stop, draft }) {
    this.#area.addEventListener("input", () => {
      this.#fit();
      draft(this.#area.value);
    });
    const submit = () => {
      if (this.#running) {
        announce("An answer is being written. Press Escape to stop it.");
        return;
      }
      const text = this.#area.value;
      if (text.trim() !== "" && send(text)) {
        this.text = "";
        draft("");
      }
    };
    this.#area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    });
    this.#button.addEventListener("click", () => {
      if (this.#running) stop();
      else submit();
      this.focus();
    });
    new ResizeObserver(() => this.#fit()).observe(this.#area.parentElement);
    this.running = false;
  }

  set text(text) {
    this.#area.value = text;
    this.#fit();
  }

  set placeholder(text) {
    this.#area.placeholder = text;
  }

  /** Whether an answer is being written in the open conversation. */
  set running(running) {
    this.#running = running;
    this.#button.replaceChildren(icon(running ? "stop" : "send"));
    this.#button.classList.toggle("stops", running);
    this.#button.setAttribute("aria-label", running ? "Stop" : "Send");
    this.#button.title = running ? "Stop (Esc)" : "Send (Enter)";
    this.#enable();
  }

  focus() {
    this.#area.focus();
  }

  #enable() {
    this.#button.disabled = !this.#running && this.#area.value.trim() === "";
  }

  #fit() {
    this.#area.style.height = "auto";
    this.#area.style.height = `${this.#area.scrollHeight}px`;
    this.#enable();
  }
}
