/**
 * Tells webhooks what happens: takes the node's events as they come, queues them for who wants them, and delivers what is
 * queued, one at a time to each webhook and some at a time to each team. Where there is no webhook the node is not asked.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeApi } from '../contract/node-api.ts';
import type { Log } from '../telemetry/log.ts';
import type { ControlStore } from './control-store.ts';
import type { Due } from './deliveries.ts';
import type { WebhookAddresses } from './webhook-addresses.ts';
import { post } from './webhook-post.ts';

export interface PostmanOptions {
  readonly node: Pick<NodeApi, 'listEvents'>;
  readonly store: Pick<ControlStore, 'webhooks' | 'deliveries'>;
  readonly addresses: WebhookAddresses;
  readonly log: Log;
  /** Waits before each further attempt, ms; after the last of them a delivery is dead. */
  readonly retryMs?: readonly number[];
  /** How long an attempt may take, ms. */
  readonly answerMs?: number;
}

export interface Postman {
  /** What is on its way is given up, and told again by the next. */
  close(): Promise<void>;
}

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
/** Eight attempts within some nine hours. */
const RETRY_MS = [5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, 120 * MINUTE, 360 * MINUTE];
const ANSWER_MS = 10 * SECOND;
/** A wait is longer or shorter by up to this part, so that what failed together does not come again together. */
const JITTER = 0.1;
const AT_ONCE = 32;
const AT_ONCE_OF_TEAM = 4;
const PAGE = 256;
const WAIT_MS = 30 * SECOND;
/** When the node did not answer. */
const AGAIN_MS = 2 * SECOND;
/** A timer cannot be set for longer than some weeks, and nothing is due so late. */
const LONGEST_MS = 3_600 * SECOND;

export function startPostman(options: PostmanOptions): Postman {
  const postman = new Rounds(options);
  return { close: () => postman.close() };
}

class Rounds {
  readonly #options: PostmanOptions;
  readonly #abort = new AbortController();
  readonly #onWay = new Map<string, { readonly due: Due; readonly over: Promise<void> }>();
  readonly #listening: Promise<void>;
  #timer: NodeJS.Timeout | undefined;
  #wake: () => void = () => {};

  constructor(options: PostmanOptions) {
    this.#options = options;
    const { webhooks, deliveries } = options.store;
    webhooks.onChange = () => {
      this.#wake();
      this.#deliver();
    };
    deliveries.onQueued = () => this.#deliver();
    this.#listening = this.#listen();
    this.#deliver();
  }

  async close(): Promise<void> {
    const { webhooks, deliveries } = this.#options.store;
    webhooks.onChange = () => {};
    deliveries.onQueued = () => {};
    this.#abort.abort();
    this.#wake();
    clearTimeout(this.#timer);
    await Promise.all([this.#listening, ...[...this.#onWay.values()].map(({ over }) => over)]);
  }

  async #listen(): Promise<void> {
    const { node, store, log } = this.#options;
    const { signal } = this.#abort;
    while (!signal.aborted) {
      const webhooks = store.webhooks.all();
      if (webhooks.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      try {
        const after = Math.min(...webhooks.map(({ seen }) => seen));
        const { events, head } = await node.listEvents({ order: 'asc', after, limit: PAGE, waitMs: WAIT_MS }, signal);
        if (signal.aborted) return;
        // Those of now: one may have gone meanwhile, or have come with a later beginning.
        store.deliveries.queue(store.webhooks.all(), events, head);
      } catch (error) {
        if (signal.aborted) return;
        log.warn({ error }, 'events could not be taken from the node; tried again');
        await sleep(AGAIN_MS, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** Begins what is due and may begin, and sets the clock for what is not due yet. */
  #deliver(): void {
    const { deliveries } = this.#options.store;
    if (this.#abort.signal.aborted) return;
    clearTimeout(this.#timer);
    while (this.#onWay.size < AT_ONCE) {
      const busy = [...this.#onWay.values()].map(({ due }) => due);
      const ofTeam = Map.groupBy(busy, ({ teamID }) => teamID);
      const teams = [...ofTeam].flatMap(([teamID, theirs]) => (theirs.length >= AT_ONCE_OF_TEAM ? [teamID] : []));
      const due = deliveries.due({ webhooks: busy.map(({ delivery }) => delivery.webhookID), teams });
      if (!due) break;
      this.#onWay.set(due.delivery.deliveryID, { due, over: this.#attempt(due) });
    }
    const nextAtMs = deliveries.nextAtMs();
    if (nextAtMs === undefined) return;
    // What is due already waits for one that is on its way.
    const waitMs = nextAtMs - Date.now();
    if (waitMs > 0) this.#timer = setTimeout(() => this.#deliver(), Math.min(waitMs, LONGEST_MS)).unref();
    else if (this.#onWay.size === 0) this.#timer = setTimeout(() => this.#deliver(), SECOND).unref();
  }

  async #attempt(due: Due): Promise<void> {
    const { addresses, store, log, retryMs = RETRY_MS, answerMs = ANSWER_MS } = this.#options;
    const { deliveryID, webhookID, eventID, attempts } = due.delivery;
    const closing = this.#abort.signal;
    // Whoever began it has its entry in the map by then.
    await Promise.resolve();
    const { told, ...outcome } = await post(due, addresses, AbortSignal.any([closing, AbortSignal.timeout(answerMs)]));
    if (!closing.aborted) {
      try {
        const waitMs = retryMs[attempts];
        const retryAtMs =
          waitMs === undefined ? undefined : Date.now() + waitMs * (1 + JITTER * (2 * Math.random() - 1));
        if (told) store.deliveries.delivered(deliveryID, outcome);
        else store.deliveries.failed(deliveryID, outcome, retryAtMs && Math.round(retryAtMs));
        const fields = { webhookID, deliveryID, eventID, attempt: attempts + 1, ...outcome };
        if (!told && retryAtMs === undefined) log.warn(fields, 'an event could not be delivered, and is given up');
        else log.debug(fields, told ? 'an event was delivered' : 'an event could not be delivered; tried again');
      } catch (error) {
        log.error({ error, deliveryID }, 'the outcome of a delivery could not be kept');
      }
    }
    this.#onWay.delete(deliveryID);
    this.#deliver();
  }
}
