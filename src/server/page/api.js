// The server's API: models, status, and answers as they are written.
import { eventData } from "./sse.js";

/**
 * What went wrong with a request. `kind` is "network" (no answer), "key" (an API key is needed), "busy" (too many
 * requests), "context" (the conversation does not fit), "cut" (the stream ended early) or "server".
 */
export class ApiError extends Error {
  constructor(kind, message, retryAfter = null) {
    super(message);
    this.kind = kind;
    /** Seconds after which the server asks to be tried again, or null. */
    this.retryAfter = retryAfter;
  }
}

const kindOf = (status, code) => {
  if (status === 401) return "key";
  if (status === 429) return "busy";
  return code === "context_length_exceeded" ? "context" : "server";
};

async function errorOf(response) {
  let body = null;
  try {
    body = (await response.json()).error;
  } catch {
    // Not an error of this server: something between it and the page answered.
  }
  const message = body?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  const wait = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  return new ApiError(kindOf(response.status, body?.code), message, Number.isFinite(wait) ? wait : null);
}

export class Api {
  /** `key` gives the API key to send, or null. */
  constructor(key) {
    this.key = key;
  }

  async #fetch(path, options = {}) {
    const headers = { ...options.headers };
    const key = this.key();
    if (key) headers.authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("network", "The server does not answer. Is it still running?");
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  async models() {
    return (await (await this.#fetch("v1/models")).json()).data;
  }

  async status() {
    return (await this.#fetch("sterna/status", { signal: AbortSignal.timeout(10_000) })).json();
  }

  /**
   * Yields the parts of an answer as they arrive: { text }, { finish }, { usage, timings }. Ends early with an AbortError
   * when `signal` is aborted. The header with `session`, the name of the conversation, lets a proxy in front of several
   * servers send it to the one that has its beginning in the cache.
   */
  async *chat(request, session, signal) {
    const response = await this.#fetch("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", "x-session-id": session },
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    try {
      for await (const data of eventData(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(kindOf(0, chunk.error.code), chunk.error.message);
        const choice = chunk.choices?.[0];
        if (choice?.delta?.content) yield { text: choice.delta.content };
        if (choice?.finish_reason) yield { finish: choice.finish_reason };
        if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings ?? null };
      }
    } catch (error) {
      if (error instanceof ApiError || error.name === "AbortError") throw error;
      throw new ApiError("cut", "The connection broke before the answer was complete.");
    }
    throw new ApiError("cut", "The connection ended before the answer was complete.");
  }
}
