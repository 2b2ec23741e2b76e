// What the page tells the user outside of the conversation: a banner for lasting trouble, a short message with an action,
// and sentences for screen readers.
import { byId, element } from "./dom.js";
import { icon, iconButton } from "./icons.js";

const MESSAGE_MS = 8000;
let timer;

/** A sentence that screen readers say; nobody sees it. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/**
 * A banner above the conversation, one for each `name`; without a text it goes away. One that is `lasting` stays until
 * then, others can be dismissed.
 */
export function banner(name, text, { action, lasting = false } = {}) {
  const old = byId("banners").querySelector(`[data-name="${name}"]`);
  if (!text) {
    old?.remove();
    return;
  }
  if (old && old.querySelector("p").textContent === text) return;
  const button = action
    ? element("button", { type: "button", class: "text-button", text: action.label, on: { click: action.run } })
    : null;
  const close = lasting ? null : iconButton("close", "Dismiss", () => banner(name, null));
  const node = element(
    "div",
    { class: "banner", role: "alert", "data-name": name },
    icon("warning"),
    element("p", { text }),
    button,
    close,
  );
  if (old) old.replaceWith(node);
  else byId("banners").append(node);
}

/** A message that goes away by itself, with an action that it offers as long. */
export function message(text, action) {
  clearTimeout(timer);
  const box = byId("message");
  const hide = () => box.replaceChildren();
  const button =
    action &&
    element("button", {
      type: "button",
      class: "text-button",
      text: action.label,
      on: {
        click: () => {
          hide();
          action.run();
        },
      },
    });
  box.replaceChildren(element("p", { text }), ...(button ? [button] : []));
  timer = setTimeout(hide, MESSAGE_MS);
}
