/**
 * The end of an agent that is started on demand: when no host is connected and nothing that it started is left, it costs
 * memory for nobody. The next host starts another.
 */
const CHECK_MS = 2_000;
/** A host that lost its connection comes back sooner than this. */
const PATIENCE_MS = 6_000;

export interface Retirement {
  /** To be called when no host is connected any more, or none yet. While one is, no timer runs. */
  onAlone(): void;
}

/** Calls `retire` once the agent has been alone and idle for a while, without a break. */
export function createRetirement(options: {
  readonly isAlone: () => boolean;
  readonly isIdle: () => boolean;
  readonly retire: () => void;
}): Retirement {
  const { isAlone, isIdle, retire } = options;
  let timer: NodeJS.Timeout | undefined;
  let since: number | undefined;
  const check = (): void => {
    if (!isAlone()) {
      clearInterval(timer);
      timer = undefined;
    }
    if (timer === undefined || !isIdle()) {
      since = undefined;
      return;
    }
    since ??= performance.now();
    if (performance.now() - since >= PATIENCE_MS) retire();
  };
  return {
    onAlone() {
      timer ??= setInterval(check, CHECK_MS);
    },
  };
}
