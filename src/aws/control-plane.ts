/** What StartSession and ResumeSession give: where to connect, and the secret that opens the channel. */
export interface SessionGrant {
  readonly sessionId: string;
  /** Secret. Goes into the first text frame of the data channel and nowhere else. */
  readonly tokenValue: string;
  /** WebSocket URL, to be used verbatim. May carry secrets in its query: never log it whole. */
  readonly streamUrl: string;
}

export interface StartSessionRequest {
  readonly target: string;
  readonly documentName: string;
  /** Every value is a list of strings, numbers included (SSM API, StartSession, Parameters). */
  readonly parameters: Readonly<Record<string, readonly string[]>>;
  readonly reason: string | undefined;
}

/**
 * The SSM calls a session needs. Implementations reject with BridgeError only
 * (credentials.*, access.*, target.*, api.*, network.*).
 */
export interface ControlPlane {
  /**
   * `left` says that nobody wants the session any more: a call that has sent nothing yet then ends at
   * once. One that has goes on until the signal aborts, because only its answer tells which session to end.
   */
  startSession(
    request: StartSessionRequest,
    signal: AbortSignal,
    left?: AbortSignal,
  ): Promise<SessionGrant>;
  /** A new grant for a disconnected session; undefined when the service says the session is over. */
  resumeSession(sessionId: string, signal: AbortSignal): Promise<ResumeGrant | undefined>;
  /** Ends the session at the service. Refusals by policy reject with access.denied; callers may ignore them. */
  terminateSession(sessionId: string, signal: AbortSignal): Promise<void>;
  /**
   * Headers for the WebSocket upgrade: SigV4 for service ssmmessages with credentials resolved anew.
   * Empty when the URL is already presigned.
   */
  signUpgrade(streamUrl: string, signal: AbortSignal): Promise<Readonly<Record<string, string>>>;
}

export interface ResumeGrant {
  readonly tokenValue: string;
  /** Undefined when the service did not give one: the previous URL still holds. */
  readonly streamUrl: string | undefined;
}
