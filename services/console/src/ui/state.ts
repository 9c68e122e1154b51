// What belongs to the whole page: the theme, the clock, short messages and questions.
import { signal } from '@preact/signals'

export type Theme = 'auto' | 'light' | 'dark'

export const theme = signal<Theme>(stored('theme') as Theme ?? 'auto')

/** Counts up when colours change, so that what is drawn on a canvas is drawn anew. */
export const painted = signal(0)

export function setTheme(value: Theme): void {
  theme.value = value
  store('theme', value)
  applyTheme()
}

export function applyTheme(): void {
  document.documentElement.dataset['theme'] = theme.value
  painted.value += 1
}

export function followSystemTheme(): void {
  applyTheme()
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { painted.value += 1 })
}

/** Seconds since 1970; ages on the page are of this moment. */
export const now = signal(Date.now() / 1000)

export function startClock(): void {
  setInterval(() => { if (!document.hidden) now.value = Date.now() / 1000 }, 1000)
}

export function stored(name: string): string | undefined {
  try {
    return localStorage.getItem(`tidegate.${name}`) ?? undefined
  } catch {
    return undefined
  }
}

export function store(name: string, value: string): void {
  try {
    localStorage.setItem(`tidegate.${name}`, value)
  } catch {
    // Private windows keep nothing.
  }
}

export interface Toast { id: number, text: string, bad: boolean }
export const toasts = signal<Toast[]>([])
let lastToast = 0

export function toast(text: string, bad = false): void {
  lastToast += 1
  const id = lastToast
  toasts.value = [...toasts.value.slice(-3), { id, text, bad }]
  setTimeout(() => { dismiss(id) }, bad ? 12_000 : 5_000)
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter(one => one.id !== id)
}

export interface Question {
  title: string
  /** What will happen, a sentence each. */
  effects: string[]
  action: string
  danger?: boolean
  resolve: (answer: boolean) => void
}
export const question = signal<Question | undefined>()

export async function confirm(asked: Omit<Question, 'resolve'>): Promise<boolean> {
  return await new Promise(resolve => { question.value = { ...asked, resolve } })
}
