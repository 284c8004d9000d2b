/** Where a team wants to be told of events: as E2B's hosted service has it, and what was told there. */
import { eventKindOf, eventTypeOf } from '../contract/e2b/activity-encode.ts';
import { deliveriesQuery, newWebhook, webhookChange, webhookReplay } from '../contract/e2b/activity-requests.ts';
import type { WireDelivery, WireWebhook } from '../contract/e2b/activity-responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { Delivery } from '../control/deliveries.ts';
import { createWebhookAddresses } from '../control/webhook-addresses.ts';
import type { Webhook } from '../control/webhooks.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate } from './validation.ts';

export function webhookRoutes(context: ApiContext): readonly Route[] {
  const { node, store, webhookAddresses = createWebhookAddresses([]) } = context;
  const { webhooks, deliveries } = store;
  const path = '/events/webhooks/:webhookID';

  return [
    {
      method: 'POST',
      path: '/events/webhooks',
      handle: async (request, reply) => {
        const { name, url, enabled, events, signatureSecret: secret } = validate(newWebhook, request.body);
        webhookAddresses.check(url);
        // It is told of what comes after now.
        const { head } = await node.listEvents({ order: 'desc', limit: 1 });
        const kinds = [...new Set(events.map(eventKindOf))];
        const wish = { name, url, enabled, kinds, ...(secret === undefined ? {} : { secret }) };
        const made = webhooks.create(teamOf(request), wish, head);
        const shown = secret === undefined ? { signatureSecret: made.secret } : {};
        return reply.code(201).send({ ...encodeWebhook(made), ...shown });
      },
    },
    {
      method: 'GET',
      path: '/events/webhooks',
      handle: async (request, reply) => reply.send(webhooks.list(teamOf(request)).map(encodeWebhook)),
    },
    {
      method: 'GET',
      path,
      handle: async (request, reply) =>
        reply.send(encodeWebhook(webhooks.get(teamOf(request), param(request, 'webhookID')))),
    },
    {
      method: 'PATCH',
      path,
      handle: async (request, reply) => {
        const { events, signatureSecret, ...rest } = validate(webhookChange, request.body);
        if (rest.url !== undefined) webhookAddresses.check(rest.url);
        const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
        const changed = webhooks.update(teamOf(request), param(request, 'webhookID'), {
          ...given,
          ...(events === undefined ? {} : { kinds: [...new Set(events.map(eventKindOf))] }),
          ...(signatureSecret === undefined ? {} : { secret: signatureSecret }),
        });
        return reply.send(encodeWebhook(changed));
      },
    },
    {
      method: 'DELETE',
      path,
      handle: async (request, reply) => {
        webhooks.delete(teamOf(request), param(request, 'webhookID'));
        return reply.code(204).send();
      },
    },
    {
      method: 'GET',
      path: `${path}/deliveries`,
      handle: async (request, reply) => {
        const { limit } = validate(deliveriesQuery, request.query);
        const { webhookID } = webhooks.get(teamOf(request), param(request, 'webhookID'));
        return reply.send(deliveries.list(webhookID, limit).map(encodeDelivery));
      },
    },
    {
      method: 'POST',
      path: `${path}/replay`,
      handle: async (request, reply) => {
        const { eventID } = validate(webhookReplay, request.body);
        const teamID = teamOf(request);
        const webhook = webhooks.get(teamID, param(request, 'webhookID'));
        const { events } = await node.listEvents({ teamID, id: eventID, order: 'desc', limit: 1 });
        const [event] = events;
        if (!event) throw new CoppiceError('event_not_found', `Event "${eventID}" doesn't exist, or was too long ago`);
        return reply.code(201).send({ id: deliveries.replay(webhook, event) });
      },
    },
  ];
}

function encodeWebhook({ webhookID, teamID, name, url, enabled, kinds, createdAtMs }: Webhook): WireWebhook {
  const createdAt = new Date(createdAtMs).toISOString();
  return { id: webhookID, teamID, name, url, enabled, events: kinds.map(eventTypeOf), createdAt };
}

function encodeDelivery(delivery: Delivery): WireDelivery {
  const { deliveryID, eventID, kind, state, attempts, status, error, createdAtMs } = delivery;
  return {
    id: deliveryID,
    eventID,
    type: eventTypeOf(kind),
    state,
    attempts,
    createdAt: new Date(createdAtMs).toISOString(),
    status: status ?? null,
    error: error ?? null,
  };
}
