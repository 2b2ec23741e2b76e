// Shows a model's text as Markdown. The text is not trusted: HTML in it stays text, links go only to the web and to mail,
// images become links, and what the parser makes is cleaned once more.
import { Marked } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.js";

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (character) => escapes[character]);

/** The address if it may be followed, else null. */
function safeAddress(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    // A relative address would lead into this page's own server.
    return null;
  }
}

function link(href, content, raw) {
  const address = safeAddress(href);
  if (address === null) return escape(raw);
  return `<a href="${escape(address)}" target="_blank" rel="noopener noreferrer nofollow">${content}</a>`;
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  // No HTML: without these two, tags are text like any other.
  tokenizer: { html: () => undefined, tag: () => undefined },
  renderer: {
    link(token) {
      return link(token.href, this.parser.parseInline(token.tokens), token.raw);
    },
    image: (token) => link(token.href, `image: ${escape(token.text || token.href)}`, token.raw),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const CLEAN = {
  ALLOWED_TAGS: [
    ..."a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["href", "target", "rel", "class", "align", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

function nodesOf(token) {
  const clean = DOMPurify.sanitize(marked.parser([token]), CLEAN);
  // DOMPurify drops `target` where it does not know that `rel` guards it.
  for (const anchor of clean.querySelectorAll("a")) {
    anchor.target = "_blank";
    anchor.rel = "noopener noreferrer nofollow";
  }
  return clean;
}

/**
 * Shows `text` in `container`. Blocks that did not change since the last call are left alone, so that an answer can be
 * redrawn while it grows without losing the reader's selection. `decorate(block)` is called with each new block.
 */
export function showMarkdown(container, text, decorate) {
  const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  tokens.forEach((token, index) => {
    const old = container.children[index];
    if (old && old.source === token.raw) return;
    const block = document.createElement("div");
    block.className = "block";
    block.source = token.raw;
    block.append(nodesOf(token));
    decorate(block);
    if (old) old.replaceWith(block);
    else container.append(block);
  });
  while (container.children.length > tokens.length) container.lastElementChild.remove();
}
