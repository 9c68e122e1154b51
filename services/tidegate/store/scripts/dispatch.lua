-- Does the operations of one call in their order. Comes last.
--
-- ARGV: queue limit, 1 = drop the oldest, then for each operation its letter, how many arguments it
-- has, and these. The result has one element per operation and then the number of entries that
-- drop_oldest has thrown away. An operation that fails is an error in its place, the others go on.

-- Any command, as its words; result: the command's.
local function plain(i, last) return call(unpack(ARGV, i, last)) end

local operations = {
  A = append, C = complete, F = fetch, L = release, R = receipt, S = subscribe, U = unsubscribe,
  N = attach, D = detach, X = set_expiry, M = set_retained, G = get_retained,
  Y = expired_retained, B = durable_sessions, E = sweep_edges, W = sweep_due, P = will_published,
  K = plain,
}

local results, at, total = {}, 3, #ARGV
while at < total do
  local last = at + 1 + tonumber(ARGV[at + 1])
  local fine, result = pcall(operations[ARGV[at]], at + 2, last)
  if not fine and type(result) ~= 'table' then
    -- Redis 7.0 gives the text of an error, later servers a table; Lua's own errors have no code.
    result = string.gsub(tostring(result), '^-', '')
    if not string.find(result, '^%u+ ') then result = 'ERR ' .. result end
    result = {err = result}
  end
  results[#results + 1] = result
  at = last + 1
end
results[#results + 1] = evicted
return results
