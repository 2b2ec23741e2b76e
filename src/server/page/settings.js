// The settings of requests: what there is, what is valid, what is sent.
import { inARow } from "./thread.js";

/** Numbers that a request may carry. Empty ones are not sent: then the server's or the model's default holds. */
export const NUMBERS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    help: "0 takes the likeliest token; higher is more varied",
  },
  {
    name: "max_tokens",
    label: "Longest answer",
    min: 1,
    max: 1_000_000,
    step: 1,
    help: "in tokens; empty: a part of the context",
  },
  {
    name: "top_p",
    label: "Top p",
    min: 0,
    max: 1,
    step: 0.01,
    help: "only the likeliest tokens that add up to this probability",
  },
  {
    name: "top_k",
    label: "Top k",
    min: 0,
    max: 1_000_000,
    step: 1,
    help: "only this many of the likeliest tokens; 0: all",
  },
  {
    name: "min_p",
    label: "Min p",
    min: 0,
    max: 1,
    step: 0.01,
    help: "only tokens at least this likely, next to the likeliest",
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 0.1,
    max: 2,
    step: 0.05,
    help: "above 1: tokens that occurred become less likely",
  },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    min: -2,
    max: 2,
    step: 0.1,
    help: "the same, once for each token that occurred",
  },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.1,
    help: "the same, growing with each occurrence",
  },
  {
    name: "seed",
    label: "Seed",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
    help: "the same seed gives the same answer",
  },
];

/** Why `text` is no value of this number, or null if it is one (or empty). */
export function problem(number, text) {
  if (text.trim() === "") return null;
  const value = Number(text);
  if (!Number.isFinite(value)) return "not a number";
  if (value < number.min || value > number.max) return `must be from ${number.min} to ${number.max}`;
  if (number.step === 1 && !Number.isInteger(value)) return "must be a whole number";
  return null;
}

const EMPTY = { model: "", system: "", stop: "", ...Object.fromEntries(NUMBERS.map(({ name }) => [name, ""])) };

export class Settings {
  #storage;
  #values;

  constructor(storage) {
    this.#storage = storage;
    this.#values = { ...EMPTY };
    const stored = storage.getJson("settings") ?? {};
    for (const name of Object.keys(EMPTY)) {
      if (typeof stored[name] === "string") this.#values[name] = stored[name];
    }
  }

  /** The text of a setting as the user wrote it. */
  get(name) {
    return this.#values[name];
  }

  set(name, text) {
    this.#values[name] = text;
    this.#storage.setJson("settings", this.#values);
  }

  /** Everything but the model back to the defaults. */
  reset() {
    this.#values = { ...EMPTY, model: this.#values.model };
    this.#storage.setJson("settings", this.#values);
  }

  /** The fields of a request to `model` with these messages. */
  request(model, messages) {
    const system = this.#values.system.trim();
    const all = system === "" ? messages : [{ role: "system", content: system }, ...messages];
    const request = {
      model: model.id,
      messages: model.has_chat_template ? all : inARow(all),
      max_tokens: defaultLength(model),
    };
    for (const number of NUMBERS) {
      const text = this.#values[number.name];
      if (text.trim() !== "" && problem(number, text) === null) request[number.name] = Number(text);
    }
    const stop = this.#values.stop.split("\n").filter((line) => line !== "");
    if (stop.length > 0) request.stop = stop;
    return request;
  }
}

/** The longest answer where the user set none: a quarter of the context, so that several fit. */
export function defaultLength(model) {
  return Math.min(1024, Math.max(64, Math.floor((model.context_length ?? 4096) / 4)));
}
