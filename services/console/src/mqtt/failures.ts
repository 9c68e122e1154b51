// Why a connection failed, in plain words. A browser tells a page only that it did: the rest is concluded. Pure.
import { t as texts } from '../texts'
import { forBrowsers, urlOf, type Listener } from './listeners'

const t = texts.failures

export interface Explanation { text: string, todo: string }

export interface Attempt {
  url: string
  /** Whether this page came by TLS. */
  pageIsSecure: boolean
  /** The WebSocket was open before it was closed. */
  opened: boolean
  /** A WebSocket without the subprotocol mqtt was opened at the same address. */
  opensWithoutSubprotocol: boolean
  /** Another path at the same place that opens. */
  openPath?: string | undefined
  /** The reason code of CONNACK or DISCONNECT, if one came. */
  code?: number | undefined
  version: 4 | 5
  timedOut: boolean
  listeners: Listener[]
  now: number
}

export function urlProblem(url: string, pageIsSecure: boolean): Explanation | null {
  let parsed
  try {
    parsed = new URL(url)
  } catch {
    return t.notAUrl
  }
  if (['mqtt:', 'mqtts:', 'tcp:', 'ssl:'].includes(parsed.protocol)) return t.noTcp(parsed.protocol)
  if (parsed.protocol === 'http:' || parsed.protocol === 'https:') return t.noHttp(url.replace(/^http/, 'ws'))
  if (parsed.protocol !== 'ws:' && parsed.protocol !== 'wss:') return t.notAUrl
  const local = ['localhost', '127.0.0.1', '[::1]'].includes(parsed.hostname)
  if (pageIsSecure && parsed.protocol === 'ws:' && !local) return t.mixed
  return null
}

/** The listener of this broker at the port of the URL, if it can be one. */
function listenerAt(url: URL, listeners: Listener[]): Listener | undefined {
  const port = Number(url.port || (url.protocol === 'wss:' ? 443 : 80))
  return listeners.find(one => one.port === port)
}

function names(listener: Listener, host: string): boolean {
  const plain = host.replace(/^\[|\]$/g, '').toLowerCase()
  return listener.names.some(name => {
    const known = name.toLowerCase()
    return known === plain || (known.startsWith('*.') && plain.split('.').slice(1).join('.') === known.slice(2))
  })
}

function certificate(attempt: Attempt, url: URL, listener: Listener | undefined): Explanation {
  if (listener?.endsAt !== undefined && listener.endsAt < attempt.now) return t.expired(listener.name)
  if (listener && listener.names.length > 0 && !names(listener, url.hostname)) {
    return t.wrongName(url.hostname, listener.names.join(', '))
  }
  return t.untrusted(url.host)
}

function notOpened(attempt: Attempt): Explanation {
  const url = new URL(attempt.url)
  const listener = listenerAt(url, attempt.listeners)
  if (attempt.opensWithoutSubprotocol) return t.subprotocol(url.host)
  if (attempt.openPath) return t.path(url.pathname, attempt.openPath)
  if (listener) {
    const secure = url.protocol === 'wss:'
    if (forBrowsers([listener]).length === 0) {
      const other = forBrowsers(attempt.listeners)[0]
      return t.notWebSocket(listener.name, listener.protocol, other && urlOf(other, url.hostname))
    }
    if (listener.protocol === 'ws' && secure) return t.plainListener(listener.name, attempt.url.replace(/^wss/, 'ws'))
    if (listener.protocol === 'wss' && !secure) return t.secureListener(listener.name, attempt.url.replace(/^ws:/, 'wss:'))
  }
  if (url.protocol === 'wss:') return certificate(attempt, url, listener)
  if (attempt.timedOut) return t.noAnswer(url.host)
  return t.unreachable(url.host)
}

export function explain(attempt: Attempt): Explanation {
  const problem = urlProblem(attempt.url, attempt.pageIsSecure)
  if (problem) return problem
  if (attempt.code !== undefined && attempt.code !== 0) return codeWords(attempt.code, attempt.version)
  if (!attempt.opened) return notOpened(attempt)
  return attempt.timedOut ? t.noConnack : t.closedBeforeConnack
}

export function codeWords(code: number, version: 4 | 5): Explanation {
  const table = version === 5 || code >= 0x80 ? t.codes5 : t.codes3
  return table[code] ?? t.unknownCode(code)
}

/** Whether connecting again by itself would only do harm: two clients would push each other out. */
export function isFinal(code: number | undefined): boolean {
  return code !== undefined && [0x87, 0x8A, 0x8E, 0x98, 0x86].includes(code)
}
