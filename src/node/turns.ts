/** One verb at a time on one sandbox, in the order in which they came. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>();

  /** Runs `act` when every one before it on `id` is over, however it ended. */
  take<T>(id: string, act: () => Promise<T>): Promise<T> {
    const before = this.#last.get(id);
    const mine = before ? before.then(act) : act();
    const over = mine.then(
      () => {},
      () => {},
    );
    this.#last.set(id, over);
    void over.then(() => {
      if (this.#last.get(id) === over) this.#last.delete(id);
    });
    return mine;
  }
}
