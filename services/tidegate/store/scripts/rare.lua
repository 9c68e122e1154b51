-- The last part of those that are made when needed.

return {
  S = subscribe, U = unsubscribe, N = attach, D = detach, X = set_expiry, B = durable_sessions,
  Y = expired_retained, E = sweep_edges, W = sweep_due, P = will_published, l = lost_done,
  H = log_ends, J = changes, I = renew_lease, Q = announce_lease, T = living_edges, V = verify,
  O = renew_router, Z = fence_writer, o = succeed, a = set_aside, m = look_soon,
}
