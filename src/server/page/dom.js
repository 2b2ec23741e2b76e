// Builds elements. Text always becomes a text node: nothing here parses HTML.

/**
 * An element with attributes and children. `on` holds listeners, `text` the text, other keys are attributes; an attribute
 * that is null, undefined or false is left out, true is set without a value.
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === "text") {
      node.textContent = value;
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The element with this id, which index.html has. */
export const byId = (id) => document.getElementById(id);
