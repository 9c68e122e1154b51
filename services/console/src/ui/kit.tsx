// The small parts that every screen is made of.
import type { ComponentChildren, JSX } from 'preact'
import { useId, useState } from 'preact/hooks'
import type { ApiError } from '../api/client'
import { ago, moment } from '../format'
import { t } from '../texts'
import { Icon, type IconName } from './icons'
import { now, toast } from './state'

type Children = { children?: ComponentChildren }
export type Tone = 'ok' | 'warning' | 'error' | 'info' | 'quiet' | 'accent'

export function Heading({ title, lead, back, children }: Children & {
  title: ComponentChildren, lead?: ComponentChildren, back?: { href: string, text: string }
}): JSX.Element {
  return (
    <header class="heading">
      <div class="heading-text">
        {back && <a class="back" href={back.href}><Icon name="chevron" size={14} />{back.text}</a>}
        <h1 tabIndex={-1}>{title}</h1>
        {lead && <p class="lead">{lead}</p>}
      </div>
      {children && <div class="heading-actions">{children}</div>}
    </header>
  )
}

export function Card({ title, extra, children, flush = false, wide = false }: Children & {
  title?: ComponentChildren, extra?: ComponentChildren, flush?: boolean, wide?: boolean
}): JSX.Element {
  return (
    <section class={`card${flush ? ' flush' : ''}${wide ? ' wide' : ''}`}>
      {(title || extra) && (
        <div class="card-head">
          {title && <h2>{title}</h2>}
          {extra && <div class="card-extra">{extra}</div>}
        </div>
      )}
      {children}
    </section>
  )
}

export function Badge({ tone = 'quiet', children, dot = false }: Children & { tone?: Tone, dot?: boolean }): JSX.Element {
  return <span class={`badge ${tone}`}>{dot && <i class="dot" />}{children}</span>
}

interface ButtonProps extends Children {
  onClick?: () => void
  kind?: 'primary' | 'danger' | 'plain' | 'quiet'
  icon?: IconName
  type?: 'button' | 'submit'
  disabled?: boolean
  label?: string
  small?: boolean
  pressed?: boolean
}

export function Button({
  onClick, kind = 'plain', icon, type = 'button', disabled = false, label, small = false, pressed, children
}: ButtonProps): JSX.Element {
  const pressedState = pressed === undefined ? {} : { 'aria-pressed': pressed }
  return (
    <button type={type} class={`button ${kind}${small ? ' small' : ''}${children ? '' : ' square'}`}
      disabled={disabled} onClick={onClick} aria-label={label} title={label} {...pressedState}>
      {icon && <Icon name={icon} size={small ? 15 : 17} />}{children}
    </button>
  )
}

export function Notice({ tone, children, title }: Children & { tone: Tone, title?: ComponentChildren }): JSX.Element {
  const icon = tone === 'error' ? 'error' : tone === 'warning' ? 'warning' : tone === 'ok' ? 'check' : 'info'
  return (
    <div class={`notice ${tone}`} role={tone === 'error' ? 'alert' : 'status'}>
      <Icon name={icon} />
      <div>{title && <strong>{title}</strong>}{children}</div>
    </div>
  )
}

/** What an answer lacks: nodes that did not answer, or all of it. */
export function Gaps({ missing, error, stale }: {
  missing?: string[] | undefined, error?: ApiError | undefined, stale?: boolean
}): JSX.Element | null {
  if (error && error.status !== 0) {
    return (
      <Notice tone={error.status === 503 ? 'warning' : 'error'} title={t.gaps.failed}>
        {` ${error.message} `}
        {(error.status >= 500 || error.status === 429) && (stale ? t.gaps.stale : t.gaps.again)}
      </Notice>
    )
  }
  if (missing?.length) {
    return (
      <Notice tone="warning" title={t.gaps.missing}>
        {` ${missing.join(', ')}. ${t.gaps.missingMeans}`}
      </Notice>
    )
  }
  return null
}

export function Loading(): JSX.Element {
  return <div class="loading" role="status"><span class="hidden">{t.loading}</span><i /><i /><i /></div>
}

export function Empty({ title, children }: Children & { title: string }): JSX.Element {
  return <div class="empty"><strong>{title}</strong>{children && <p>{children}</p>}</div>
}

export function Age({ at }: { at: number | null | undefined }): JSX.Element {
  return <span class="nowrap" title={moment(at)}>{ago(at, now.value)}</span>
}

export function Code({ children, copy = false }: { children: string, copy?: boolean }): JSX.Element {
  return (
    <span class="code-line">
      <code>{children}</code>
      {copy && <Button kind="quiet" small icon="copy" label={t.copy}
        onClick={() => { void navigator.clipboard?.writeText(children).then(() => { toast(t.copied) }) }} />}
    </span>
  )
}

export function Facts({ items }: { items: [string, ComponentChildren][] }): JSX.Element {
  return (
    <dl class="facts">
      {items.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value ?? '–'}</dd></div>)}
    </dl>
  )
}

export interface Column<T> {
  head: string
  cell: (item: T) => ComponentChildren
  right?: boolean
  /** Left away on a narrow screen. */
  minor?: boolean
}

/** Explicit roles, because the narrow layout takes a table's own away. */
export function Table<T>({ columns, items, name, id, label, empty }: {
  columns: Column<T>[], items: T[], name: string, id: (item: T) => string, label?: (item: T) => string
  empty?: ComponentChildren
}): JSX.Element {
  if (items.length === 0 && empty) return <>{empty}</>
  const kind = (column: Column<T>): string => `${column.right ? 'right' : ''}${column.minor ? ' minor' : ''}`
  return (
    <div class="table-frame">
      <table role="table" aria-label={name}>
        <thead role="rowgroup">
          <tr role="row">{columns.map(column => (
            <th role="columnheader" scope="col" class={kind(column)} key={column.head}>
              {column.head || <span class="hidden">{t.actions}</span>}
            </th>
          ))}</tr>
        </thead>
        <tbody role="rowgroup">{items.map(item => (
          <tr role="row" key={id(item)} aria-label={label?.(item)}>{columns.map(column => (
            <td role="cell" class={kind(column)} data-head={column.head} key={column.head}><div>{column.cell(item)}</div></td>
          ))}</tr>
        ))}</tbody>
      </table>
    </div>
  )
}

export function More({ more, busy, shown }: { more: (() => void) | undefined, busy: boolean, shown: number }): JSX.Element | null {
  if (!more) return null
  return (
    <div class="more">
      <Button onClick={more} disabled={busy}>{busy ? t.loading : t.more}</Button>
      <span class="quiet-text">{t.shown(shown)}</span>
    </div>
  )
}

interface FieldProps {
  label: string
  hint?: ComponentChildren
  problem?: string | null | undefined
  wide?: boolean
}

export function Field({ label, hint, problem, wide = false, children }: FieldProps & {
  children: (id: string, described: string | undefined) => ComponentChildren
}): JSX.Element {
  const id = useId()
  const about = hint || problem ? `${id}-about` : undefined
  return (
    <div class={`field${wide ? ' wide' : ''}${problem ? ' bad' : ''}`}>
      <label for={id}>{label}</label>
      {children(id, about)}
      {about && <p class="hint" id={about}>{problem ?? hint}</p>}
    </div>
  )
}

export function Text({ value, onInput, type = 'text', placeholder, mono = false, required = false, min, max, auto, list, ...field }:
FieldProps & {
  value: string, onInput: (value: string) => void, type?: 'text' | 'password' | 'number', placeholder?: string, mono?: boolean
  required?: boolean, min?: number, max?: number, auto?: string, list?: string
}): JSX.Element {
  return (
    <Field {...field}>
      {(id, about) => (
        <input id={id} type={type as 'text'} value={value} placeholder={placeholder} class={mono ? 'mono' : ''}
          {...(list ? { list } : {})} required={required} min={min} max={max} autocomplete={auto ?? 'off'} spellcheck={false}
          aria-describedby={about} aria-invalid={Boolean(field.problem)}
          onInput={event => { onInput(event.currentTarget.value) }} />
      )}
    </Field>
  )
}

export function Area({ value, onInput, rows = 4, ...field }: FieldProps & {
  value: string, onInput: (value: string) => void, rows?: number
}): JSX.Element {
  return (
    <Field {...field}>
      {(id, about) => (
        <textarea id={id} rows={rows} class="mono" value={value} spellcheck={false} aria-describedby={about}
          onInput={event => { onInput(event.currentTarget.value) }} />
      )}
    </Field>
  )
}

export function Choice<T extends string>({ value, options, onChange, ...field }: FieldProps & {
  value: T, options: [T, string][], onChange: (value: T) => void
}): JSX.Element {
  return (
    <Field {...field}>
      {(id, about) => (
        <select id={id} value={value} aria-describedby={about}
          onChange={event => { onChange(event.currentTarget.value as T) }}>
          {options.map(([name, text]) => <option value={name} key={name}>{text}</option>)}
        </select>
      )}
    </Field>
  )
}

export function Check({ label, checked, onChange }: {
  label: string, checked: boolean, onChange: (value: boolean) => void
}): JSX.Element {
  return (
    <label class="check">
      <input type="checkbox" checked={checked} onChange={event => { onChange(event.currentTarget.checked) }} />
      <span>{label}</span>
    </label>
  )
}

export function Search({ value, onInput, label, placeholder }: {
  value: string, onInput: (value: string) => void, label: string, placeholder?: string
}): JSX.Element {
  return (
    <div class="search">
      <Icon name="search" size={16} />
      <input type="search" aria-label={label} placeholder={placeholder ?? label} value={value} spellcheck={false}
        autocomplete="off" onInput={event => { onInput(event.currentTarget.value) }} />
    </div>
  )
}

/** One of a few, as buttons in a row. */
export function Segments<T extends string>({ value, options, onChange, label }: {
  value: T, options: [T, string][], onChange: (value: T) => void, label: string
}): JSX.Element {
  return (
    <div class="segments" role="group" aria-label={label}>
      {options.map(([name, text]) => (
        <button type="button" key={name} aria-pressed={value === name} onClick={() => { onChange(name) }}>{text}</button>
      ))}
    </div>
  )
}

export function Fold({ title, children, open = false }: Children & { title: string, open?: boolean }): JSX.Element {
  const [shown, setShown] = useState(open)
  const id = useId()
  return (
    <div class="fold">
      <button type="button" class="fold-head" aria-expanded={shown} aria-controls={id}
        onClick={() => { setShown(!shown) }}>
        <Icon name="chevron" size={14} />{title}
      </button>
      <div id={id} hidden={!shown}>{children}</div>
    </div>
  )
}
