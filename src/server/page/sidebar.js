// The list of conversations; on narrow screens a drawer.
import { byId, element } from "./dom.js";
import { iconButton } from "./icons.js";

const NARROW = matchMedia("(max-width: 820px)");

export class Sidebar {
  #list = byId("conversations");
  #drawn = "";
  #renaming = false;

  /** `act`: open(id), rename(conversation, title), exportOne(conversation), remove(conversation). */
  constructor(act) {
    this.act = act;
    byId("sidebar-open").addEventListener("click", () => this.drawer(true));
    byId("sidebar-close").addEventListener("click", () => this.drawer(false));
    byId("scrim").addEventListener("click", () => this.drawer(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !document.body.classList.contains("drawer")) return;
      event.stopPropagation();
      this.drawer(false);
    });
    NARROW.addEventListener("change", () => this.drawer(false));
    this.drawer(false);
  }

  /** Opens or closes the drawer; on wide screens the sidebar always stays. */
  drawer(open) {
    const show = open && NARROW.matches;
    const was = document.body.classList.contains("drawer");
    document.body.classList.toggle("drawer", show);
    byId("scrim").hidden = !show;
    byId("sidebar").inert = NARROW.matches && !show;
    byId("sidebar-open").setAttribute("aria-expanded", show);
    if (show) byId("new").focus();
    else if (was && NARROW.matches) byId("sidebar-open").focus();
  }

  /** Draws the list if it changed: the conversations, which one is open, and in which answers are being written. */
  show(conversations, open, running) {
    const state = JSON.stringify([conversations.map(({ id, title }) => [id, title, running.has(id)]), open]);
    if (state === this.#drawn || this.#renaming) return;
    this.#drawn = state;
    const focused = this.#list.contains(document.activeElement)
      ? document.activeElement.closest("li")?.dataset.id
      : null;
    this.#list.replaceChildren(
      ...(conversations.length > 0
        ? conversations.map((each) => this.#row(each, each.id === open, running.has(each.id)))
        : [element("li", { class: "none", text: "Conversations stay in this browser and are listed here." })]),
    );
    if (focused) this.#list.querySelector(`[data-id="${focused}"] .open`)?.focus();
  }

  #row(conversation, open, running) {
    const button = element(
      "button",
      {
        type: "button",
        class: "open",
        title: conversation.title,
        "aria-current": open ? "page" : null,
        on: { click: () => this.act.open(conversation.id), dblclick: () => this.#rename(row, conversation) },
      },
      element("span", { text: conversation.title }),
      running ? element("span", { class: "pulse", role: "img", "aria-label": "an answer is being written" }) : null,
    );
    const name = conversation.title;
    const row = element(
      "li",
      { "data-id": conversation.id, class: open ? "current" : null },
      button,
      element(
        "span",
        { class: "row-actions" },
        iconButton("edit", `Rename “${name}”`, () => this.#rename(row, conversation)),
        iconButton("download", `Export “${name}” as JSON`, () => this.act.exportOne(conversation)),
        iconButton("trash", `Delete “${name}”`, () => this.act.remove(conversation)),
      ),
    );
    return row;
  }

  #rename(row, conversation) {
    this.#renaming = true;
    const input = element("input", { type: "text", value: conversation.title, "aria-label": "Title", maxlength: 200 });
    let ended = false;
    const end = (keep) => {
      if (ended) return;
      ended = true;
      this.#renaming = false;
      this.#drawn = "";
      const title = input.value.trim();
      this.act.rename(conversation, keep && title !== "" ? title : conversation.title);
    };
    input.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.stopPropagation();
      end(event.key === "Enter");
      this.#list.querySelector(`[data-id="${conversation.id}"] .open`)?.focus();
    });
    input.addEventListener("blur", () => end(true));
    row.replaceChildren(input);
    input.select();
  }
}
