// The connection to the server: finds its models, follows its status, asks for a key where it wants one, and tells the user
// when it is gone and back.
import { KeyDialog } from "./key_dialog.js";
import { banner } from "./notices.js";
import { Poll } from "./poll.js";
import { ServerCard } from "./server_card.js";

export class Connection {
  #api;
  #storage;
  #models;
  #card = new ServerCard();
  #connected = false;
  #connecting = false;

  /** `keyEntered()` is called when the server has accepted a key that the user entered. */
  constructor({ api, storage, models, keyEntered }) {
    this.#api = api;
    this.#storage = storage;
    this.#models = models;
    this.dialog = new KeyDialog(async (key) => {
      storage.set("key", key);
      banner("key", null);
      await this.connect();
      if (this.#connected) keyEntered();
    });
    this.poll = new Poll(
      api,
      (status) => {
        this.#card.show(status, models.current?.id);
        if (!this.#connected) this.connect();
      },
      (error) => this.#failed(error),
    );
  }

  /** Gets the models; from then on the status is followed. */
  async connect() {
    if (this.#connecting) return;
    this.#connecting = true;
    try {
      this.#models.all = await this.#api.models();
      this.#connected = true;
      banner("gone", null);
      this.poll.start();
    } catch (error) {
      this.#failed(error);
      if (error.kind !== "key") this.poll.start();
    }
    this.#connecting = false;
  }

  /** The server wants a key: asks for it. Nothing else is asked of it until there is one. */
  needKey() {
    this.poll.pause();
    this.#connected = false;
    const refused = this.#storage.get("key") !== null;
    banner("key", refused ? "The server did not accept the API key." : "This server needs an API key.", {
      action: { label: "Enter it", run: () => this.dialog.open(refused) },
      lasting: true,
    });
    this.dialog.open(refused);
  }

  #failed(error) {
    if (error.kind === "key") {
      this.needKey();
      return;
    }
    this.#connected = false;
    this.#card.gone();
    const text = error.kind === "network" ? "The server does not answer. Trying again every 2 seconds." : error.message;
    banner("gone", text, { lasting: true });
  }
}
