// An action: asked first, then done, then said.
import { ApiError } from '../api/client'
import { sentence } from '../format'
import { confirm, toast, type Question } from './state'

export async function attempt(action: () => Promise<unknown>, done: string | (() => string)): Promise<boolean> {
  try {
    await action()
  } catch (error) {
    toast(sentence(error instanceof ApiError ? error.message : String(error)), true)
    return false
  }
  toast(typeof done === 'string' ? done : done())
  return true
}

export async function confirmed(
  asked: Omit<Question, 'resolve'>, action: () => Promise<unknown>, done: string
): Promise<boolean> {
  return await confirm(asked) && await attempt(action, done)
}
