/** One attempt at a delivery: a POST that is signed, bounded in time, and follows no redirect. */
import { createHash, createHmac } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Due, Outcome } from './deliveries.ts';
import type { WebhookAddresses } from './webhook-addresses.ts';

/** Bytes of an answer that are read before its connection is cut. */
const ANSWER_MOST = 64 * 1024;
const ERROR_CHARS = 200;

/** E2B's own: SHA-256 of the secret and the body, in base64 without its padding. */
function e2bSignature(secret: string, body: string): string {
  return createHash('sha256').update(secret).update(body).digest('base64').replace(/=+$/, '');
}

/** Of the body, keyed with the secret: `sha256=<hex>`. */
function hmacSignature(secret: string, body: string): string {
  return `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;
}

/** Never rejects. Told is what was answered with a status of 200 to 299. */
export async function post(
  { delivery, url: text, secret }: Due,
  addresses: WebhookAddresses,
  signal: AbortSignal,
): Promise<Outcome & { readonly told: boolean }> {
  const { deliveryID, webhookID, body } = delivery;
  try {
    const url = addresses.check(text);
    const status = await new Promise<number>((resolve, reject) => {
      const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
      const request = send(
        url,
        {
          method: 'POST',
          agent: false,
          lookup: addresses.lookup,
          signal,
          headers: {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(body),
            'user-agent': 'coppice-webhooks',
            'e2b-webhook-id': webhookID,
            'e2b-delivery-id': deliveryID,
            'e2b-signature-version': 'v1',
            'e2b-signature': e2bSignature(secret, body),
            'coppice-signature': hmacSignature(secret, body),
          },
        },
        (response) => {
          let left = ANSWER_MOST;
          response.on('data', (chunk: Buffer) => {
            left -= chunk.length;
            if (left < 0) request.destroy();
          });
          response.on('error', () => {});
          resolve(response.statusCode ?? 0);
        },
      );
      request.on('error', reject);
      request.end(body);
    });
    if (status >= 200 && status < 300) return { told: true, status };
    return { told: false, status, error: `answered ${status}` };
  } catch (error) {
    const late = signal.aborted ? 'no answer in time' : undefined;
    return { told: false, error: (late ?? (error as Error).message).slice(0, ERROR_CHARS) };
  }
}
