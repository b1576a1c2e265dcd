/** An error answer of an AWS JSON API, in the shapes that the services really use. */
export class ApiError extends Error {
  readonly code: string;
  readonly status: number;
  readonly #isCoral: boolean;
  readonly #messageKey: 'message' | 'Message';

  constructor(
    code: string,
    message: string,
    options: { status?: number; isCoral?: boolean; capitalMessage?: boolean } = {},
  ) {
    super(message);
    this.code = code;
    this.status = options.status ?? 400;
    this.#isCoral = options.isCoral ?? false;
    this.#messageKey = options.capitalMessage === true ? 'Message' : 'message';
  }

  body(): object {
    const type = this.#isCoral ? `com.amazon.coral.service#${this.code}` : this.code;
    return { __type: type, [this.#messageKey]: this.message };
  }
}
