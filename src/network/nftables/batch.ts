/** Turns calls made at the same time into one: while a batch runs, the next one gathers. */

/** Runs all items at once. Rejecting means that none of them took effect. */
export type RunBatch<Item> = (items: readonly Item[]) => Promise<void>;

/**
 * Resolves when `item` has taken effect. When a batch of several fails, each is run alone, so that only those at fault
 * reject.
 */
export function createBatcher<Item>(runBatch: RunBatch<Item>, limit = 256): (item: Item) => Promise<void> {
  interface Waiting {
    readonly item: Item;
    readonly resolve: () => void;
    readonly reject: (error: unknown) => void;
  }
  const queue: Waiting[] = [];
  let running = false;

  async function drain(): Promise<void> {
    running = true;
    // Whatever is called in this turn of the event loop joins the first batch.
    await Promise.resolve();
    while (queue.length > 0) {
      const batch = queue.splice(0, limit);
      try {
        await runBatch(batch.map((waiting) => waiting.item));
        for (const waiting of batch) waiting.resolve();
      } catch (error) {
        if (batch.length === 1) batch[0]!.reject(error);
        else for (const waiting of batch) await runBatch([waiting.item]).then(waiting.resolve, waiting.reject);
      }
    }
    running = false;
  }

  return (item) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    queue.push({ item, resolve, reject });
    if (!running) void drain();
    return promise;
  };
}
