/**
 * Numbers of the Session Manager data channel. The first part is fixed by the peers (the public
 * sources of session-manager-plugin and amazon-ssm-agent); the second part was chosen here, each
 * value with its reason.
 */

// ---- Fixed by the wire format -------------------------------------------------------------------

/** Offsets of the binary message header; all integers are big-endian. */
export const OFFSET = {
  headerLength: 0,
  messageType: 4,
  schemaVersion: 36,
  createdDate: 40,
  sequenceNumber: 48,
  flags: 56,
  messageId: 64,
  payloadDigest: 80,
  payloadType: 112,
} as const;

/** Offset of PayloadLength in every message an agent or client makes; the payload follows it. */
export const HEADER_LENGTH = 116;
/** Service-made messages may end their header here, without a PayloadType. */
export const SHORT_HEADER_LENGTH = 112;
export const PAYLOAD_LENGTH_SIZE = 4;
/** Offset of the payload in those messages, and so what a message takes beyond its payload. */
export const PAYLOAD_OFFSET = HEADER_LENGTH + PAYLOAD_LENGTH_SIZE;
export const MESSAGE_TYPE_SIZE = 32;
export const DIGEST_SIZE = 32;
export const MESSAGE_ID_SIZE = 16;
export const SCHEMA_VERSION = 1;

export const PAYLOAD_TYPE = {
  none: 0,
  output: 1,
  handshakeRequest: 5,
  handshakeResponse: 6,
  handshakeComplete: 7,
  flag: 10,
} as const;

/** Values of a Flag payload, a big-endian u32. */
export const FLAG = { disconnectToPort: 1, terminateSession: 2, connectToPortError: 3 } as const;

/** Flags field: stream messages of a client carry 0, acknowledgements both bits (SYN and FIN). */
export const STREAM_FLAGS = 0;
export const ACKNOWLEDGE_FLAGS = 3;

export const ACTION_STATUS = { success: 1, failed: 2, unsupported: 3 } as const;

/** WebSocket close code "message too big". */
export const CLOSE_TOO_BIG = 1009;

/** Agents newer than this run LocalPortForwarding over smux. */
export const LAST_AGENT_WITHOUT_MUX = '3.0.196.0';
/** Announcing at least this version asks the agent for smux. */
export const FIRST_CLIENT_WITH_MUX = '1.1.70';
/** Agents up to this one kill a smux session that is silent for 30 s … */
export const LAST_AGENT_WITH_SMUX_KEEP_ALIVE = '3.1.1511.0';
/** … except this one … */
export const AGENT_WITHOUT_SMUX_KEEP_ALIVE = '3.1.1446.0';
/** … and later agents do so for clients up to this one. */
export const LAST_CLIENT_WITH_SMUX_KEEP_ALIVE = '1.2.331.0';
/** Agents before this one acknowledge and drop data that arrives while they dial the port. */
export const FIRST_AGENT_KEEPING_EARLY_DATA = '3.0.655.0';
/** Agents before this one do not acknowledge a message again that they have already processed. */
export const FIRST_AGENT_ACKNOWLEDGING_DUPLICATES = '3.2.1041.0';

// ---- Chosen here --------------------------------------------------------------------------------

/** The version AWS documents as the oldest supported; agents and service switch features on it. */
export const DEFAULT_CLIENT_VERSION = '1.2.764.0';
/** An agent is seen to answer this with one raw TCP connection instead of smux. */
export const BASIC_MODE_CLIENT_VERSION = '1.1.69';

/** What AWS's own client sends; the size that surely passes everywhere. */
export const SMALL_PAYLOAD_BYTES = 1024;
/** 4 MiB covers 16 MiB/s at 250 ms. */
export const DEFAULT_MAX_IN_FLIGHT_BYTES = 4 * 1024 * 1024;
/** About four seconds at the paced rate. */
export const DEFAULT_MAX_IN_FLIGHT_MESSAGES = 4000;
/** The service drops connections that sustain about 1000 stream messages a second. */
export const DEFAULT_MESSAGES_PER_SECOND = 950;
/** How much of a second's messages may go out at once: rate + burst stays below 1000. */
export const PACER_BURST_SECONDS = 0.05;
/** Tokens a paced sender waits for, so that it wakes every 4 ms rather than for each message. */
export const PACER_WAKE_TOKENS = 4;

/** AWS's own early-message buffer has the same count; bytes bound what a hostile peer can hold. */
export const MAX_EARLY_MESSAGES = 10_000;
export const MAX_EARLY_BYTES = 8 * 1024 * 1024;

export const INITIAL_RTO_MS = 300;
/** Below this a scheduling hiccup of the agent would look like a loss. */
export const MIN_RTO_MS = 250;
export const MAX_RTO_MS = 5000;
/** Least variation the estimate allows for; AWS's clock granularity. */
export const RTT_GRANULARITY_MS = 10;
/** A message counts as overtaken only by one sent clearly later. */
export const MIN_REORDER_WINDOW_MS = 10;
/** Most messages one expired timer resends; it starts at one and doubles while that helps. */
export const MAX_TIMER_BURST = 64;

/** Sendings over one socket, each overtaken, after which silence means "had it before". */
export const SENDINGS_UNTIL_PRESUMED = 4;
/**
 * Small messages beyond the window, one for each time an agent that ignores duplicates stays silent;
 * the bound is twenty minutes of silence.
 */
export const MAX_PROBES = 256;
/** Expired timers in a row after which such an agent counts as silent. */
export const SILENT_EXPIRIES = 2;

/** How long client bytes wait for an agent that drops early data to show that it has connected. */
export const EARLY_DATA_HOLD_MS = 1000;

/** JSON payloads are a few hundred bytes; more than this is not one. */
export const MAX_ACKNOWLEDGE_BYTES = 4 * 1024;
export const MAX_JSON_BYTES = 64 * 1024;
/** A text frame from the service is not part of the protocol; larger ones are not looked at. */
export const MAX_TEXT_LENGTH = 64 * 1024;
/** Bounds on peer-made text that is shown to a person. */
export const MAX_SHOWN_OUTPUT = 4096;
export const MAX_SHOWN_NAME = 64;

/**
 * How long after a resume an end of the session may have cut off what the agent still had to send again:
 * it waits 2 s for acknowledgements before it closes (amazon-ssm-agent PrepareToCloseChannel), and resends.
 */
export const TAIL_DOUBT_MS = 3000;

/** Sockets in a row on which stream data arrived damaged and none arrived whole. */
export const MAX_CORRUPT_SOCKETS = 5;
/** Closes in a row for a too big message with no acknowledgement between: replay cannot help. */
export const MAX_TOO_BIG_CLOSES = 3;
/** Closes in a row without any acknowledgement that make large payloads suspect. */
export const SUSPECT_CLOSES = 2;

/** Random bytes fetched at a time: 256 message ids. */
export const ID_POOL_BYTES = 4096;
