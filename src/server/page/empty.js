// What an empty conversation shows: which model is there and examples to begin with.
import { byId, element } from "./dom.js";

const CONTINUE = [
  ["Once upon a time", "a tale from its first words"],
  ["There was once a poor fisherman who lived by the sea", "a place and a person"],
  ["In the middle of a deep forest stood a little house", "a setting"],
  ["“Who are you?” asked the king. “I am", "a conversation"],
];
const CHAT = [
  ["Explain to a child why the sky is blue.", "an explanation"],
  ["Write a function in Python that says whether a word is a palindrome.", "some code"],
  ["Give me five names for a sailing boat, and say why each fits.", "ideas"],
  ["What are the pros and cons of working at night? Answer with a table.", "a comparison"],
];

/**
 * Shows the empty state for `model`, which is undefined where there is none; `known` says whether the server has told which
 * models it has. `begin(text)` is called with a chosen example.
 */
export function showEmpty(model, known, begin) {
  const continues = model && !model.has_chat_template;
  const examples = (continues ? CONTINUE : CHAT).map(([text, kind]) =>
    element(
      "button",
      { type: "button", class: "example", on: { click: () => begin(text) } },
      element("span", { text }),
      element("small", { text: kind }),
    ),
  );
  const lead = continues
    ? `${model.id} continues text: it was not trained to answer questions. Give it a beginning.`
    : model
      ? `You are talking to ${model.id}, which runs on this server.`
      : known
        ? "No model of this server writes text: they only embed it, for programs that ask for it."
        : "Looking for the server’s models…";
  byId("empty").replaceChildren(
    element("span", { class: "logo" }),
    element("h2", { text: continues ? "How does the story begin?" : "What shall we talk about?" }),
    element("p", { text: lead }),
    ...(model ? [element("div", { class: "examples" }, ...examples)] : []),
  );
}
