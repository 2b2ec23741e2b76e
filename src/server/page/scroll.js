// Keeps the end of the conversation in view while it grows, unless the reader went up to read.
const NEAR_PX = 48;

export class Follower {
  #area;
  #following = true;
  #last = 0;

  /** Follows the end of `area`; `button` brings the reader back there and is shown only while that is of use. */
  constructor(area, button) {
    this.#area = area;
    this.button = button;
    area.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.grown()).observe(area);
  }

  /** Goes to the end and follows it. */
  toEnd() {
    this.#following = true;
    this.grown();
  }

  /** The content grew or changed. */
  grown() {
    if (this.#following) this.#area.scrollTop = this.#area.scrollHeight;
    this.#update();
  }

  #distance() {
    return this.#area.scrollHeight - this.#area.clientHeight - this.#area.scrollTop;
  }

  #scrolled() {
    const top = this.#area.scrollTop;
    if (this.#distance() < NEAR_PX) this.#following = top >= this.#last || this.#distance() < 2;
    else if (top < this.#last) this.#following = false;
    this.#last = top;
    this.#update();
  }

  #update() {
    this.button.hidden = this.#following || this.#distance() < NEAR_PX;
  }
}
