// What the browser keeps for the pages. A browser may refuse (blocked by a setting, no room): then it is kept for as long
// as the page is open, and nothing breaks.

export class Kept {
  readonly #storage: () => Storage;
  /** What the browser did not take. */
  readonly #memory = new Map<string, string>();

  /** `storage` may throw: where a browser blocks it, even to name it does. */
  constructor(storage: () => Storage) {
    this.#storage = storage;
  }

  get(name: string): string | null {
    const here = this.#memory.get(name);
    if (here !== undefined) return here;
    try {
      return this.#storage().getItem(name);
    } catch {
      return null;
    }
  }

  set(name: string, value: string): void {
    this.#memory.delete(name);
    try {
      this.#storage().setItem(name, value);
    } catch {
      this.#memory.set(name, value);
    }
  }

  remove(name: string): void {
    this.#memory.delete(name);
    try {
      this.#storage().removeItem(name);
    } catch {
      // Then it is not there either.
    }
  }
}

/** In this browser, for all tabs. */
export const local = new Kept(() => localStorage);
/** For as long as the tab is open. */
export const session = new Kept(() => sessionStorage);
