/** Files of an OCI image layout that holds these images. */
import { hexOf } from '../../src/templates/oci/digest.ts';
import type { TinyImage } from './oci-image.ts';
import { file, sha256, type TarPart } from './tiny-tar.ts';

export function layoutFiles(images: readonly { readonly image: TinyImage; readonly name?: string }[]): TarPart[] {
  const index = {
    schemaVersion: 2,
    manifests: images.map(({ image, name }) => ({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest: sha256(image.manifest),
      size: image.manifest.length,
      ...(name === undefined ? {} : { annotations: { 'org.opencontainers.image.ref.name': name } }),
    })),
  };
  const blobs = images.flatMap(({ image }) => [...image.blobs]);
  return [
    file('oci-layout', '{"imageLayoutVersion":"1.0.0"}'),
    ...blobs.map(([digest, bytes]) => file(`blobs/sha256/${hexOf(digest)}`, bytes)),
    file('./index.json', JSON.stringify(index)),
  ];
}
