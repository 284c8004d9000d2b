/** Names of the files of a jail's folder. */
export const BACKEND_NAME = 'oci';
export const LAYER_FILE = 'layer.ext4';
export const CONFIG_FILE = 'config.json';
export const RUNTIME_LOG = 'runtime.log';
export const AGENT_SOCKET = 'agent.sock';
/** Says that a capture is under way, and what is to be undone if it is never finished. */
export const CAPTURE_NOTE = 'capture.json';
/** Of a checkpoint with a disk: the layer, as its name in the folder and in the manifest. */
export const GOLDEN_LAYER = 'layer';
