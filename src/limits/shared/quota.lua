-- The quotas of one subject, as `crates/core/src/limit/quota/counter.rs` has them for one process: a span of the calendar
-- begins anew once it is over and is never gone back from; what slides is counted in steps, of which 60 stay beside the one
-- that begins.
--
-- A hash holds them: by its name a quota of the calendar ("end used", the end in seconds) or one that slides ("first last
-- used", the numbers of its steps), each step by both (`tokens_per_5h:123`), by `@` and its name what a request that runs
-- has reserved ("quota slot amount" for each), and until when the hash is kept (x, in milliseconds).

local STEPS = 60
-- What was said once of a request that was never admitted here.
local SAID = 'said'
-- The hash stays for so long after all of it has left: what runs is settled until then.
local AFTERWARDS = 3600000

-- A quota: its longest span in seconds ('0': it slides), and the four boundaries of spans around the present, or the
-- length of its step.
local function quota_of(name, longest, one, two, three, four)
  if longest == '0' then
    return {name = name, step = tonumber(one)}
  end
  return {name = name, longest = tonumber(longest), one = one, two = two, three = three, four = four}
end

-- What counts of a quota, as this call left it, or as the hash has it. Nil: nothing does.
local function stored_quota(key, name)
  if key.current[name] then
    return key.current[name]
  end
  local one, two, three = string.match(field(key.quotas, name) or '', '^(%-?%d+) (%-?%d+) ?(%d*)$')
  if not one then
    return nil
  end
  if three == '' then
    return {name = name, ends = tonumber(one), used = tonumber(two)}
  end
  return {name = name, step = true, first = tonumber(one), last = tonumber(two), used = tonumber(three)}
end

local function step_name(quota, slot)
  return quota.name .. ':' .. text(slot)
end

local function step_now(quota)
  return math.floor(present / quota.step)
end

local function drop_steps(key, quota, before)
  local first, gone, names = quota.first, 0, {}
  while first <= quota.last and first < before do
    names[#names + 1] = step_name(quota, first)
    first = first + 1
  end
  if #names == 0 then
    return
  end
  read(key.quotas, names)
  for _, name in ipairs(names) do
    gone = gone + (tonumber(key.quotas.fields[name]) or 0)
    set(key.quotas, name, false)
  end
  quota.first, quota.used = first, math.max(quota.used - gone, 0)
  if first > quota.last then
    quota.first, quota.last, quota.used = 0, -1, 0
  end
end

local function bring_steps(key, quota, stored)
  quota.first, quota.last, quota.used = 0, -1, 0
  if stored and stored.step then
    quota.first, quota.last, quota.used = stored.first, stored.last, stored.used
  end
  local now = step_now(quota)
  if quota.last > now + STEPS then
    -- The clock was set back by more than is kept: what is kept means nothing.
    drop_steps(key, quota, math.huge)
  end
  drop_steps(key, quota, now - STEPS)
end

local function span_end(quota, second)
  local bounds = {tonumber(quota.one), tonumber(quota.two), tonumber(quota.three), tonumber(quota.four)}
  for index = 1, 3 do
    if bounds[index] <= second and second < bounds[index + 1] then
      return bounds[index + 1]
    end
  end
end

local function bring_span(quota, stored)
  local second = math.floor(present / 1000000)
  quota.ends, quota.used = 0, 0
  if stored and not stored.step then
    quota.ends, quota.used = stored.ends, stored.used
  end
  local lasts = second < quota.ends
  if lasts and quota.ends - second <= quota.longest then
    return
  end
  local new = span_end(quota, second)
  -- Whoever asks knows another calendar than this clock's.
  quota.is_outside = not new
  if new then
    -- If the clock was far ahead and has been set right, what is used stays.
    quota.ends, quota.used = new, lasts and quota.used or 0
  end
end

-- Brings a quota to the present.
local function bring(key, quota)
  local stored = stored_quota(key, quota.name)
  if quota.step then
    bring_steps(key, quota, stored)
  else
    bring_span(quota, stored)
  end
  return quota
end

-- Keeps what became of a quota.
local function put(key, quota)
  local leaves = quota.step and (quota.last + STEPS + 1) * quota.step or quota.ends * 1000000
  if not quota.is_outside then
    key.current[quota.name] = quota
  end
  key.leaves = math.max(key.leaves or 0, leaves)
end

local function add_to_step(key, quota, slot, amount)
  local name = step_name(quota, slot)
  set(key.quotas, name, text((tonumber(field(key.quotas, name)) or 0) + amount))
  quota.used = quota.used + amount
end

-- Counts at present. Returns the slot.
local function spend(key, quota, amount)
  if not quota.step then
    quota.used = quota.used + amount
    return quota.ends
  end
  local now = step_now(quota)
  if quota.last < quota.first then
    quota.first, quota.last = now, now - 1
  end
  -- After a clock was set back a little, it counts with what came last.
  local slot = math.max(now, quota.last)
  if amount > 0 then
    add_to_step(key, quota, slot, amount)
    quota.last = slot
  end
  return slot
end

-- Counts what a gateway spent in `slot` without asking.
local function spend_in(key, quota, slot, amount)
  if not quota.step then
    if slot >= quota.ends and quota.ends * 1000000 > present then
      quota.used = quota.used + amount
    end
    return
  end
  if slot + STEPS < step_now(quota) then
    return
  end
  -- Its clock may be ahead.
  slot = math.min(slot, step_now(quota))
  if quota.last < quota.first then
    quota.first, quota.last = slot, slot
  end
  quota.first, quota.last = math.min(quota.first, slot), math.max(quota.last, slot)
  add_to_step(key, quota, slot, amount)
end

-- Takes back what was counted in `slot`, as far as it still counts.
local function refund(key, quota, slot, amount)
  if not quota.step then
    if quota.ends == slot then
      quota.used = math.max(quota.used - amount, 0)
    end
  elseif quota.first <= slot and slot <= quota.last then
    local name = step_name(quota, slot)
    local had = tonumber(field(key.quotas, name)) or 0
    amount = math.min(amount, had)
    set(key.quotas, name, text(had - amount))
    quota.used = math.max(quota.used - amount, 0)
  end
end

-- Takes back all that a request has reserved. Nobody says how long its quotas are, and that does not matter.
local function release(key, name)
  local reserved = field(key.quotas, '@' .. name)
  if not reserved then
    return
  end
  set(key.quotas, '@' .. name, false)
  for quota_name, slot, amount in string.gmatch(reserved, '(%S+) (%d+) (%d+)') do
    local quota = stored_quota(key, quota_name)
    if quota then
      refund(key, quota, tonumber(slot), tonumber(amount))
      key.current[quota_name] = quota
    end
  end
end

-- The quotas that a settlement speaks of: for each its name, a slot, an amount, and what it is, eight words.
local function each_spoken_of(key, words, visit)
  local word = '(%S+) '
  for name, slot, amount, longest, one, two, three, four in string.gmatch(words, string.rep(word, 8)) do
    local quota = bring(key, quota_of(name, longest, one, two, three, four))
    visit(quota, tonumber(slot), tonumber(amount))
    put(key, quota)
  end
end

-- The quotas of a request, as the arguments from `from` on say them: their number, and for each what it is (six), the
-- amount that is taken, the limit, and what was used elsewhere, until when. What is known of them is read at once, and so
-- are these fields. `bring_quotas` is still to come. Returns where the next argument stands.
local function open_quotas(key, from, names)
  local count = tonumber(ARGV[from])
  key.limited = {}
  for number = 1, count do
    local at = from + 1 + (number - 1) * 10
    local quota = quota_of(unpack(ARGV, at, at + 5))
    quota.amount, quota.limit = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
    quota.carried, quota.carried_until = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
    if quota.carried_until <= present then
      quota.carried = 0
    end
    key.limited[number] = quota
    names[#names + 1] = quota.name
    if quota.step then
      names[#names + 1] = step_name(quota, step_now(quota))
    end
  end
  if #names > 0 then
    names[#names + 1] = 'x'
    read(key.quotas, names)
  end
  return from + 1 + count * 10
end

-- Brings the quotas of a request to the present, after what was settled.
local function bring_quotas(key)
  for _, quota in ipairs(key.limited) do
    put(key, bring(key, quota))
    key.is_outside = key.is_outside or quota.is_outside
  end
end

-- Takes a request's amounts from its quotas.
local function reserve_quotas(key, name)
  local reserved = {}
  for _, quota in ipairs(key.limited) do
    local slot = spend(key, quota, quota.amount)
    put(key, quota)
    reserved[#reserved + 1] = string.format('%s %d %d', quota.name, slot, quota.amount)
  end
  if #reserved > 0 then
    set(key.quotas, '@' .. name, table.concat(reserved, ' '))
  end
end

-- What counts of a quota, by when it leaves, the next first.
local function leaving(key, quota)
  local list = {}
  if quota.carried > 0 then
    list[1] = {quota.carried_until, quota.carried}
  end
  if not quota.step then
    list[#list + 1] = {quota.ends * 1000000, quota.used}
  else
    for slot = quota.first, quota.last do
      list[#list + 1] = {(slot + STEPS + 1) * quota.step, tonumber(field(key.quotas, step_name(quota, slot))) or 0}
    end
  end
  table.sort(list, function(one, other) return one[1] < other[1] end)
  return list
end

-- How long until so much of a quota counts no longer, and how long until nothing does.
local function waits_for_quota(key, quota, excess)
  local wait, reset = nil, 0
  for _, part in ipairs(leaving(key, quota)) do
    if part[2] > 0 then
      reset, excess = math.max(part[1] - present, 0), excess - part[2]
      wait = wait or excess <= 0 and reset
    end
  end
  return wait or 0, reset
end

-- Keeps what became of the quotas.
local function save_quotas(key)
  for name, quota in pairs(key.current) do
    local packed
    if quota.step then
      packed = string.format('%d %d %d', quota.first, quota.last, quota.used)
    else
      packed = string.format('%d %d', quota.ends, quota.used)
    end
    if key.quotas.fields[name] ~= packed then
      set(key.quotas, name, packed)
    end
  end
  if not next(key.quotas.changed) then
    return
  end
  local kept = tonumber(field(key.quotas, 'x') or 0)
  local needed = math.floor(math.max(key.leaves or 0, present) / 1000) + AFTERWARDS
  if kept < needed then
    set(key.quotas, 'x', text(needed))
  end
  write(key.quotas)
  if kept < needed then
    call('PEXPIRE', key.quotas.at, text(needed - math.floor(present / 1000)))
  end
end
