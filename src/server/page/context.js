// How much of the model's context a conversation uses.
import { byId } from "./dom.js";

const NEARLY_FULL = 0.85;

/** Shows the use after the last of `messages` that says how many tokens it was. */
export function showContext(messages, model) {
  const used = messages.findLast((message) => message.usage)?.usage.total_tokens;
  const context = model?.context_length;
  byId("context").hidden = used === undefined || !context;
  if (byId("context").hidden) return;
  const nearly = used >= NEARLY_FULL * context;
  byId("context-meter").max = context;
  byId("context-meter").value = Math.min(used, context);
  byId("context").classList.toggle("nearly-full", nearly);
  byId("context-text").textContent = nearly
    ? `${used} of ${context} tokens: the context is nearly full`
    : `${used} of ${context} tokens`;
}

/** Why an answer ended at a limit, as a sentence. */
export function limitReached({ usage, asked }) {
  const full = usage && asked?.context && usage.total_tokens >= asked.context;
  return full ? "the context is full" : `ended at the limit of ${asked?.max_tokens ?? "its"} tokens`;
}
