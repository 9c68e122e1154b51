// Dialogs: the browser's own element keeps the focus inside and closes on Escape.
import type { ComponentChildren, JSX } from 'preact'
import { useEffect, useId, useRef } from 'preact/hooks'
import { t } from '../texts'
import { Button } from './kit'
import { dismiss, question, toasts } from './state'

export function Dialog({ title, onClose, children, wide = false }: {
  title: string, onClose: () => void, children: ComponentChildren, wide?: boolean
}): JSX.Element {
  const element = useRef<HTMLDialogElement>(null)
  const id = useId()
  useEffect(() => {
    const dialog = element.current
    const before = document.activeElement
    dialog?.showModal()
    return () => {
      dialog?.close()
      if (before instanceof HTMLElement) before.focus()
    }
  }, [])
  return (
    <dialog ref={element} class={wide ? 'wide' : ''} aria-labelledby={id}
      onCancel={event => { event.preventDefault(); onClose() }}>
      <div class="dialog-head">
        <h2 id={id}>{title}</h2>
        <Button kind="quiet" icon="close" label={t.close} onClick={onClose} />
      </div>
      {children}
    </dialog>
  )
}

export function Confirmation(): JSX.Element | null {
  const asked = question.value
  if (!asked) return null
  const answer = (yes: boolean): void => {
    question.value = undefined
    asked.resolve(yes)
  }
  return (
    <Dialog title={asked.title} onClose={() => { answer(false) }}>
      <div class="dialog-body">
        {asked.effects.length === 1
          ? <p>{asked.effects[0]}</p>
          : <ul class="effects">{asked.effects.map(effect => <li key={effect}>{effect}</li>)}</ul>}
      </div>
      <div class="dialog-foot">
        <Button onClick={() => { answer(false) }}>{t.cancel}</Button>
        <Button kind={asked.danger === false ? 'primary' : 'danger'} onClick={() => { answer(true) }}>{asked.action}</Button>
      </div>
    </Dialog>
  )
}

export function Toasts(): JSX.Element {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(one => (
        <div key={one.id} class={`toast${one.bad ? ' bad' : ''}`}>
          <span>{one.text}</span>
          <Button kind="quiet" small icon="close" label={t.close} onClick={() => { dismiss(one.id) }} />
        </div>
      ))}
    </div>
  )
}
