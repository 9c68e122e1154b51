-- Does the operations of one call in their order. Comes last.
--
-- ARGV: queue limit, 1 = drop the oldest, count of guards, these, then for each operation its letter,
-- how many arguments it has, and these. Outside of a cluster there are no guards; in one they are
-- the prefixes of the operations' partitions, one for each operation. The result has one element
-- per operation and then the number of entries that drop_oldest has thrown away, or {that number, how
-- many entries sessions left behind when they ended, how many of these had not been sent}. An
-- operation that fails is an error in its place, the others go on.

-- Any command, as its words; result: the command's.
local function plain(i, last) return call(unpack(ARGV, i, last)) end

local often = {
  A = append, C = complete, F = fetch, L = release, R = receipt, M = set_retained, G = get_retained,
  K = plain,
}
local others
local function operation(letter)
  if often[letter] then return often[letter] end
  others = others or rare()
  return others[letter]
end

-- Why the server cannot do an operation on this partition; false if it can. An operation that found
-- some of its keys here and the others gone would be done by halves. The prefix itself is a key that
-- never exists, and while a slot moves only those that do are answered: so all of them are here, and
-- stay until the end of this call.
local elsewhere = {}
local function check(P)
  local answer = redis.pcall('EXISTS', P)
  local text = type(answer) == 'table' and answer.err
  if text and (string.find(text, 'non local key') or string.find(text, 'cluster is down')) then
    text = 'ELSEWHERE ' .. P
  end
  elsewhere[P] = text and {err = text} or false
end

local results, guards, total = {}, tonumber(ARGV[3]), #ARGV
local at = 4 + guards
while at < total do
  local last = at + 1 + tonumber(ARGV[at + 1])
  local fine, result = true, false
  if guards > 0 then
    local P = ARGV[4 + #results]
    if elsewhere[P] == nil then check(P) end
    result = elsewhere[P]
  end
  if not result then fine, result = pcall(operation(ARGV[at]), at + 2, last) end
  if not fine and type(result) ~= 'table' then
    -- Redis 7.0 gives the text of an error, later servers a table; Lua's own errors have no code.
    result = string.gsub(tostring(result), '^-', '')
    if not string.find(result, '^%u+ ') then result = 'ERR ' .. result end
    result = {err = result}
  end
  results[#results + 1] = result
  at = last + 1
end
results[#results + 1] = left_behind > 0 and {evicted, left_behind, left_unsent} or evicted
return results
