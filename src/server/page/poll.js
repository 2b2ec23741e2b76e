// Asks the server for its status every two seconds while the page is seen.
const EVERY_MS = 2000;

export class Poll {
  #timer = null;
  #asking = false;
  #paused = false;

  /** `arrived(status)` or `failed(error)` is called after each request. */
  constructor(api, arrived, failed) {
    this.api = api;
    this.arrived = arrived;
    this.failed = failed;
    document.addEventListener("visibilitychange", () => this.#next(0));
  }

  /** Begins, or goes on after `pause`. */
  start() {
    this.#paused = false;
    this.#next(0);
  }

  /** No more requests until `start`. */
  pause() {
    this.#paused = true;
  }

  #next(delay) {
    clearTimeout(this.#timer);
    if (document.visibilityState === "visible" && !this.#paused) this.#timer = setTimeout(() => this.#ask(), delay);
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      this.arrived(await this.api.status());
    } catch (error) {
      this.failed(error);
    }
    this.#asking = false;
    this.#next(EVERY_MS);
  }
}
