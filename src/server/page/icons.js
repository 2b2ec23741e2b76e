// The page's icons: strokes on a grid of 24, drawn in the colour of the text around them.
import { element } from "./dom.js";

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "m5 12.5 4.5 4.5L19 7.5",
  retry: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L19.5 9M19.5 4v5h-5",
  edit: "M4 20l.9-4L16.5 4.4a1.6 1.6 0 0 1 2.3 0l.8.8a1.6 1.6 0 0 1 0 2.3L8 19.1 4 20M14 7l3 3",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5v5.5M13.5 10.5v5.5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 19.5h14",
  settings: "M4 7h9M17 7h3M4 12h3M11 12h9M4 17h7M15 17h5M15 5v4M9 10v4M13 15v4",
  left: "m14 6-6 6 6 6",
  right: "m10 6 6 6-6 6",
  down: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  close: "M6 6l12 12M18 6 6 18",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  light:
    "M12 8.2a3.8 3.8 0 1 0 0 7.6 3.8 3.8 0 0 0 0-7.6M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M18.4 5.6 17 7M7 17l-1.4 1.4",
  dark: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7z",
  warning: "M12 4 2.8 19.5h18.4zM12 10v4.5M12 17v.4",
};

const SVG = "http://www.w3.org/2000/svg";

/** An icon that assistive technology skips. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows only an icon; its name is there for assistive technology and as a tooltip. */
export function iconButton(name, label, listener, extra = {}) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: listener }, ...extra },
    icon(name),
  );
}

/** Puts icons into the elements of index.html that ask for one with data-icon. */
export function fillIcons(root) {
  for (const node of root.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
}
