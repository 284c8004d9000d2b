/** Images made of tiny tars, and a registry on the loopback that serves them, or misbehaves as it is told. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { hostPlatform, MEDIA_TYPES } from '../../src/templates/oci/manifest.ts';
import { sha256, type TarPart, tar } from './tiny-tar.ts';

export interface TinyImage {
  /** Every blob by digest, the manifest among them. */
  readonly blobs: ReadonlyMap<string, Buffer>;
  readonly manifest: Buffer;
}

export type Packing = 'tar' | 'gzip' | 'zstd';

export function makeImage(
  layers: readonly (readonly TarPart[] | Buffer)[],
  options: {
    readonly config?: Record<string, unknown>;
    readonly platform?: { readonly os: string; readonly architecture: string };
    readonly packing?: Packing;
    readonly diffIDs?: readonly string[];
  } = {},
): TinyImage {
  const { packing = 'gzip', platform = hostPlatform() } = options;
  const blobs = new Map<string, Buffer>();
  const add = (bytes: Buffer): { digest: string; size: number } => {
    blobs.set(sha256(bytes), bytes);
    return { digest: sha256(bytes), size: bytes.length };
  };
  const tars = layers.map((layer) => (Buffer.isBuffer(layer) ? layer : tar(layer)));
  const packed = tars.map((bytes) =>
    packing === 'gzip' ? gzipSync(bytes) : packing === 'zstd' ? zstdCompressSync(bytes) : bytes,
  );
  const config = add(
    Buffer.from(
      JSON.stringify({
        os: platform.os,
        architecture: platform.architecture,
        config: options.config ?? {},
        rootfs: { type: 'layers', diff_ids: options.diffIDs ?? tars.map(sha256) },
      }),
    ),
  );
  const suffix = packing === 'tar' ? '' : `+${packing}`;
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.manifest[0],
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: packed.map((bytes) => ({ mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`, ...add(bytes) })),
    }),
  );
  blobs.set(sha256(manifest), manifest);
  return { blobs, manifest };
}

export function makeIndex(
  entries: readonly { readonly image: TinyImage; readonly architecture: string; readonly os?: string }[],
): TinyImage {
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.index[0],
      manifests: entries.map(({ image, architecture, os = 'linux' }) => ({
        mediaType: MEDIA_TYPES.manifest[0],
        digest: sha256(image.manifest),
        size: image.manifest.length,
        platform: { os, architecture },
      })),
    }),
  );
  const blobs = new Map(entries.flatMap(({ image }) => [...image.blobs]));
  blobs.set(sha256(manifest), manifest);
  return { blobs, manifest };
}

export interface Asked {
  readonly path: string;
  readonly authorization: string | undefined;
}

export interface TestServer extends AsyncDisposable {
  /** `127.0.0.1:<port>` */
  readonly host: string;
  readonly asked: Asked[];
}

export type Answer = (path: string, request: IncomingMessage, response: ServerResponse) => void;

export async function serve(answer: Answer): Promise<TestServer> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    asked.push({ path: request.url!, authorization: request.headers.authorization });
    answer(request.url!, request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    host: `127.0.0.1:${port}`,
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Serves one image as `<host>/test/image:latest`, and by its digests. */
export function serveImage(image: TinyImage): Answer {
  return (path, _request, response) => {
    const [, kind, name] = /^\/v2\/test\/image\/(manifests|blobs)\/(.+)$/.exec(path) ?? [];
    const bytes = kind === 'manifests' && name === 'latest' ? image.manifest : image.blobs.get(name ?? '');
    if (bytes === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  };
}
