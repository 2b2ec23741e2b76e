// One answer while it is written: from the request to its last token.
import { ApiError } from "./api.js";

const SAVE_EVERY_MS = 1000;
const TRIES_WHEN_BUSY = 5;
const WAIT_WHEN_BUSY_S = 2;

export class Generation {
  #stop = new AbortController();
  #why = "";
  #saved = 0;
  #first = 0;
  #chunks = 0;

  /**
   * Writes the answer to `request` behind what `message` has. `session` names the conversation. `changed(message)` is
   * called after each change, `save()` now and then and at the end.
   */
  constructor(api, request, session, message, { changed, save }) {
    this.api = api;
    this.request = request;
    this.session = session;
    this.message = message;
    this.changed = () => changed(message);
    this.save = save;
  }

  /** Ends the answer where it is; `why` is the state that it then has. */
  stop(why = "stopped") {
    this.#why = why;
    this.#stop.abort();
  }

  /** The page goes away: nothing runs after this, so the message is stored as it will be found. */
  leave() {
    this.stop("interrupted");
    this.message.state = "interrupted";
    this.save();
  }

  /** Tokens per second so far, as they arrive here, or null before there is anything to measure. */
  get liveRate() {
    const elapsed = (performance.now() - this.#first) / 1000;
    return this.#chunks > 1 && elapsed > 0.2 ? (this.#chunks - 1) / elapsed : null;
  }

  /** Runs to the end and never throws: what went wrong stands in the message. */
  async run() {
    const { message } = this;
    try {
      for (let tries = 1; ; tries++) {
        try {
          await this.#write();
          message.state = "done";
          break;
        } catch (error) {
          const busy = error instanceof ApiError && error.kind === "busy";
          if (!busy || tries === TRIES_WHEN_BUSY) throw error;
          await this.#wait(error.retryAfter ?? WAIT_WHEN_BUSY_S);
        }
      }
    } catch (error) {
      if (this.#stop.signal.aborted) {
        message.state = this.#why;
      } else {
        message.state = "failed";
        const known = error instanceof ApiError;
        if (!known) console.error(error);
        message.error = { kind: known ? error.kind : "server", text: error.message };
      }
    }
    delete message.waitUntil;
    this.changed();
    this.save();
  }

  async #write() {
    const { message } = this;
    const started = performance.now();
    message.state = "streaming";
    for (const name of ["finish", "usage", "timings", "firstToken"]) delete message[name];
    this.changed();
    for await (const part of this.api.chat(this.request, this.session, this.#stop.signal)) {
      if (part.text !== undefined) {
        if (this.#chunks === 0) {
          this.#first = performance.now();
          message.firstToken = (this.#first - started) / 1000;
        }
        this.#chunks += 1;
        message.content += part.text;
      }
      if (part.finish !== undefined) message.finish = part.finish;
      if (part.usage !== undefined) {
        message.usage = part.usage;
        message.timings = part.timings;
      }
      this.changed();
      if (performance.now() - this.#saved > SAVE_EVERY_MS) {
        this.#saved = performance.now();
        this.save();
      }
    }
  }

  /** The server is busy: waits as long as it asked for, or until stopped. */
  async #wait(seconds) {
    const { message } = this;
    message.state = "waiting";
    message.waitUntil = Date.now() + seconds * 1000;
    const signal = this.#stop.signal;
    while (Date.now() < message.waitUntil) {
      this.changed();
      await new Promise((resolve) => {
        setTimeout(resolve, Math.min(1000, message.waitUntil - Date.now()));
        signal.addEventListener("abort", resolve, { once: true });
      });
      signal.throwIfAborted();
    }
  }
}
