// A conversation as a tree: an edited message or a repeated answer stands beside the earlier one, so nothing is lost.
// A message: { id, parent, role, content, time } and for answers model, state, error, finish, usage, timings.

/** An id that is unique in this browser; works on pages without HTTPS too. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

const ROOT = "root";

/** The messages that stand at the place of `message`, itself among them, oldest first. */
export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** The messages that are shown: from the first one along the choices that were made. */
export function path(conversation) {
  const children = new Map();
  for (const message of conversation.messages) {
    if (!children.has(message.parent)) children.set(message.parent, []);
    children.get(message.parent).push(message);
  }
  const shown = [];
  let at = null;
  while (children.has(at)) {
    const candidates = children.get(at);
    const chosen = conversation.selected[at ?? ROOT];
    const next = candidates.find((message) => message.id === chosen) ?? candidates.at(-1);
    shown.push(next);
    at = next.id;
  }
  return shown;
}

/** Adds a message below `parent` (an id, or null for the first) and shows it. */
export function append(conversation, parent, message) {
  const added = { id: newId(), parent, time: Date.now(), ...message };
  conversation.messages.push(added);
  select(conversation, added);
  return added;
}

/** Shows this message where several stand at one place. */
export function select(conversation, message) {
  conversation.selected[message.parent ?? ROOT] = message.id;
}

/** Takes away a message, unless others follow on it. */
export function removeLeaf(conversation, message) {
  if (conversation.messages.some((other) => other.parent === message.id)) return;
  conversation.messages = conversation.messages.filter((other) => other.id !== message.id);
}

/**
 * The messages for a model that knows no conversations and goes on with their texts in a row: where two would run into
 * one word, a space parts them.
 */
export function inARow(messages) {
  return messages.map((message, index) => {
    const before = messages[index - 1]?.content ?? " ";
    const apart = /\s$/.test(before) || /^\s/.test(message.content);
    return apart ? message : { ...message, content: ` ${message.content}` };
  });
}

/** What the model is sent to answer `last`: the messages from the first to it, without answers that failed unwritten. */
export function history(conversation, last) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const sent = [];
  for (let message = last; message; message = byId.get(message.parent)) {
    if (message.content !== "") sent.unshift({ role: message.role, content: message.content });
  }
  return sent;
}
