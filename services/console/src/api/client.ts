// Requests of the console's API: one place for addresses, errors, the session and whether it answers.
import { signal } from '@preact/signals'
import { t } from '../texts'
import type { Me, Role } from './types'

export class ApiError extends Error {
  constructor(readonly status: number, readonly reason: string, message: string) {
    super(message)
  }
}

/** Null: nobody is logged in; undefined: not known yet. */
export const me = signal<Me | null | undefined>(undefined)

/** False while the console's process does not answer at all. */
export const reachable = signal(true)

/** How many requests have had no answer for so long that the reader wonders. */
export const overdue = signal(0)
const OVERDUE_MS = 4000

const RANKS: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 }

export function may(role: Role): boolean {
  return me.value != null && RANKS[me.value.role] >= RANKS[role]
}

export type Query = Record<string, string | number | boolean | null | undefined>

export function address(path: string, query: Query = {}): string {
  const url = new URL(`api/v1/${path}`, document.baseURI.split('#')[0])
  for (const [name, value] of Object.entries(query)) {
    if (value != null && value !== '') url.searchParams.set(name, String(value))
  }
  return url.href
}

export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return await request<T>('GET', address(path, query), undefined, signal)
}

export async function post<T>(path: string, body: unknown = {}, query: Query = {}): Promise<T> {
  return await request<T>('POST', address(path, query), body)
}

export async function remove<T>(path: string, query: Query = {}): Promise<T> {
  return await request<T>('DELETE', address(path, query))
}

async function request<T>(method: string, url: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' }
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  if (method !== 'GET' && me.value) headers['X-CSRF-Token'] = me.value.csrf
  const options: RequestInit = { method, headers, credentials: 'same-origin', cache: 'no-store' }
  if (body !== undefined) options.body = JSON.stringify(body)
  if (signal) options.signal = signal
  let response
  let isOverdue = false
  const timer = setTimeout(() => { isOverdue = true; overdue.value += 1 }, OVERDUE_MS)
  try {
    response = await fetch(url, options)
  } catch (error) {
    if (!signal?.aborted) lost()
    throw signal?.aborted ? error : new ApiError(0, 'unreachable', t.away.console)
  } finally {
    clearTimeout(timer)
    if (isOverdue) overdue.value -= 1
  }
  if (![502, 503, 504].includes(response.status)) reachable.value = true
  if (response.ok) return await answer<T>(response)
  throw await problem(response)
}

function lost(): void {
  reachable.value = false
}

async function answer<T>(response: Response): Promise<T> {
  const text = await response.text()
  return (text ? JSON.parse(text) : {}) as T
}

async function problem(response: Response): Promise<ApiError> {
  if (response.status === 401 && me.value) me.value = null
  const body = await response.json().catch(() => ({})) as { error?: string, reason?: string, detail?: unknown }
  if ([502, 504].includes(response.status)) lost()
  const text = body.error ?? (typeof body.detail === 'string' ? body.detail : t.away.status(response.status))
  return new ApiError(response.status, body.reason ?? 'unknown', text)
}

/** Only 401 ends a session: a console that has just started answers 503 until it has read its store. */
export async function whoAmI(): Promise<void> {
  try {
    me.value = await get<Me>('me')
  } catch (error) {
    if (!(error instanceof ApiError)) return
    if (error.status === 401) me.value = null
    else lost()
  }
}

export async function login(credentials: { user: string, password: string } | { token: string }): Promise<void> {
  me.value = await post<Me>('login', credentials)
}

/** Why the token of the address was refused. */
export const refusedToken = signal<string | undefined>(undefined)

/** Log in with the token that `tidegate serve` puts into the address; without one, find out who has a session. */
export async function begin(token: string | undefined): Promise<void> {
  if (!token) {
    await whoAmI()
    return
  }
  try {
    await login({ token })
  } catch (error) {
    if (error instanceof ApiError && error.status !== 0) refusedToken.value = error.message
    await whoAmI()
  }
}

export async function logout(): Promise<void> {
  await post('logout').catch(() => undefined)
  me.value = null
}
