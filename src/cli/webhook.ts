/** `coppice webhook …`: where the team of this key is told of what happens to its sandboxes. */
import { EVENT_TYPES, type WireDelivery, type WireWebhook } from '../contract/e2b/activity-responses.ts';
import { ask } from './ask.ts';
import { type OutputOptions, print, table } from './report.ts';

const PATH = '/events/webhooks';
const at = (id: string): string => `${PATH}/${encodeURIComponent(id)}`;

export async function create(
  url: string,
  options: OutputOptions & { readonly name?: string; readonly event?: readonly string[]; readonly secret?: string },
): Promise<void> {
  const { name = new URL(url).host, event = EVENT_TYPES, secret } = options;
  const { body } = await ask('POST', PATH, {
    name,
    url,
    events: event.map((one) => (one.includes('.') ? one : `sandbox.lifecycle.${one}`)),
    ...(secret === undefined ? {} : { signatureSecret: secret }),
  });
  const made = body as WireWebhook & { readonly signatureSecret?: string };
  const shown = made.signatureSecret;
  print(options, made, () => (shown ? `${made.id}\nsecret: ${shown}\n(shown once)` : made.id));
}

export async function list(options: OutputOptions): Promise<void> {
  const found = (await ask('GET', PATH)).body as WireWebhook[];
  print(options, found, () =>
    table(
      ['ID', 'NAME', 'URL', 'ON', 'EVENTS'],
      found.map((one) => [
        one.id,
        one.name,
        one.url,
        one.enabled ? 'yes' : 'no',
        one.events.map((type) => type.replace('sandbox.lifecycle.', '')).join(' '),
      ]),
    ),
  );
}

export async function remove(ids: readonly string[], options: OutputOptions): Promise<void> {
  for (const id of ids) await ask('DELETE', at(id));
  print(
    options,
    ids.map((id) => ({ id, deleted: true })),
    () => ids.map((id) => `${id}: deleted`).join('\n'),
  );
}

export async function deliveries(id: string, options: OutputOptions): Promise<void> {
  const found = (await ask('GET', `${at(id)}/deliveries?limit=100`)).body as WireDelivery[];
  print(options, found, () =>
    table(
      ['CREATED', 'EVENT', 'TYPE', 'STATE', 'ATTEMPTS', 'LAST'],
      found.map((one) => [
        one.createdAt,
        one.eventID,
        one.type.replace('sandbox.lifecycle.', ''),
        one.state,
        String(one.attempts),
        one.error ?? (one.status === null ? '-' : String(one.status)),
      ]),
    ),
  );
}

export async function replay(id: string, eventID: string, options: OutputOptions): Promise<void> {
  const { id: deliveryID } = (await ask('POST', `${at(id)}/replay`, { eventID })).body as { id: string };
  print(options, { id: deliveryID, eventID }, () => `${eventID}: queued as ${deliveryID}`);
}
