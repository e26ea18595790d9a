import { type Static, Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Hypervisor, Id, Nullable, OneOf, RegionCapacity, ref, Text, Timestamp } from '../http/schemas.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'
import { STATUSES } from './row.ts'
import { STEP_NAMES } from './steps.ts'

const NAME_RULE = {
  pattern: '^[A-Za-z0-9._ -]{1,63}$',
  'x-rule': '1 to 63 of letters, digits, ".", "_", "-" and space',
}
const LABEL = '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'

const name = Type.String({ ...NAME_RULE, description: 'Name for people; need not be unique.', examples: ['api-1'] })
const hostname = Type.String({
  pattern: `^${LABEL}$`,
  'x-rule': 'a host name label (RFC 1123): letters, digits and "-", at most 63',
  description: 'What the guest calls itself.',
  examples: ['api-1'],
})
const region = Text({ description: 'Region to run in; see /v2/regions.', maxLength: 64, examples: ['us-east-1'] })
const plan = Text({ description: 'Size of the machine; see /v2/plans.', maxLength: 64, examples: ['standard-4x'] })
const image = {
  ...Text({ description: 'Name or id of an image; see /v2/images.', maxLength: 64, examples: ['ubuntu-22.04-lts'] }),
  'x-names': 'img',
}
const subnetId = Type.String({
  pattern: '^sub_[0-9a-z]{10}$',
  'x-rule': 'an identifier such as sub_8f7e6d5c4b',
  description: 'Subnet of the private address; `sub_8f7e6d5c4b` names the default subnet everywhere.',
  examples: ['sub_8f7e6d5c4b'],
})
const port = Type.Integer({ minimum: 1, maximum: 65535, description: 'TCP port of the guest.', examples: [8080] })
const tags = Type.Unsafe<Record<string, string>>({
  type: 'object',
  maxProperties: 50,
  propertyNames: {
    type: 'string',
    pattern: '^[A-Za-z0-9._/-]{1,63}$',
    'x-rule': 'keys of 1 to 63 letters, digits, ".", "_", "/" or "-"',
  },
  additionalProperties: Text({ maxLength: 256, description: 'Value of the tag.' }),
  description: 'Labels: at most 50, text to text.',
  examples: [{ env: 'production', app: 'api-server' }],
})
const autoRecovery = Type.Boolean({ description: 'Whether it is started again when its machine fails.' })
const recoveryPriority = Type.Integer({
  minimum: 0,
  maximum: 100,
  description: 'After a reboot of the host, instances with a higher number are started first; 50 unless given.',
})
const terminationProtection = Type.Boolean({ description: 'While true, DELETE is refused.' })
const readyTimeout = Type.Integer({
  minimum: 10,
  maximum: 3600,
  description: 'Seconds from the start of the machine until the guest must have said that it is up.',
})
const userData = Type.String({
  maxLength: 65_536,
  'x-max-bytes': 65_536,
  pattern: '^\\P{Cs}*$',
  'x-rule': 'text without halves of characters (lone surrogates)',
  description: 'cloud-config or a script, run once by the guest; at most 64 KiB. Never shown again.',
})
const sshKeyIds = Type.Array(Id('ssh', 'Identifier of an SSH key.'), {
  maxItems: 50,
  uniqueItems: true,
  description: 'Keys that may log in. Left out: all default keys; empty: none.',
})

/** The resource as GET shows it: the page's fields first. */
export const Instance = Type.Object(
  {
    id: Id('inst', 'Identifier.'),
    status: OneOf(STATUSES, 'Where it is in its life.'),
    region,
    plan,
    public_ip: Nullable(
      Type.String({
        description: 'Public IPv4 address, kept until terminated or unassigned.',
        examples: ['127.90.1.5'],
      }),
    ),
    created_at: Timestamp('When it was asked for.'),
    links: Type.Object(
      {
        self: Type.String({
          description: 'This resource.',
          examples: ['http://127.0.0.1:8080/v2/instances/inst_3x9y2z1a0b'],
        }),
        console: Type.String({
          description: 'Its page.',
          examples: ['http://127.0.0.1:8080/console/instances/inst_3x9y2z1a0b'],
        }),
      },
      { description: 'Addresses of this instance.', additionalProperties: false },
    ),
    name,
    hostname,
    image,
    image_id: Id('img', 'The image that it was made from.'),
    private_ip: Nullable(Type.String({ description: 'Address in the subnet.', examples: ['10.64.0.5'] })),
    network: Type.Object(
      {
        subnet_id: subnetId,
        assign_public_ip: Type.Boolean({ description: 'Whether it has a public address.' }),
        ports: Type.Array(
          Type.Object(
            { port, public_port: Type.Union([Type.Integer(), Type.Null()]) },
            { description: 'A port of the guest and the port of the public address that leads to it.' },
          ),
          { description: 'Ports reachable at the public address; `public_port` is null while it is not.' },
        ),
      },
      { description: 'How it is connected.', additionalProperties: false },
    ),
    tags,
    status_reason: Type.Union(
      [
        Type.Object(
          {
            code: Type.String({ description: 'Stable code.' }),
            message: Type.String({ description: 'What happened and what to do.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'Why it failed, or `expired` when it ended because its time was up; null otherwise.' },
    ),
    desired_status: OneOf(['running', 'stopped'], 'What was wished for last.'),
    deployment_id: Nullable(Type.String({ description: 'The deployment that it belongs to.' })),
    auto_recovery: autoRecovery,
    recovery_priority: recoveryPriority,
    termination_protection: terminationProtection,
    ready_timeout_seconds: readyTimeout,
    ssh: Type.Union(
      [
        Type.Object(
          {
            user: Type.String({ description: 'User to log in as.' }),
            host: Type.String({ description: 'Address.' }),
            port: Type.Integer({ description: 'Port.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'Where to log in; null while that is not possible.' },
    ),
    environment: OneOf(['live', 'test'], 'The environment it belongs to.'),
    ready_at: Nullable(Timestamp('When the guest was up for the first time since its creation or rebuild.')),
    terminated_at: Nullable(Timestamp('When it was gone.')),
    expires_at: Nullable(
      Timestamp('When it will be terminated by itself, protected or not: a budget of the key that made it says so.'),
    ),
    created_by: Nullable(Id('key', 'The API key that it was made by.')),
    updated_at: Timestamp('When anything shown here changed last.'),
    version: Type.Integer({ minimum: 1, description: 'Rises with every change; also the ETag.' }),
  },
  { $id: 'Instance', description: 'A virtual machine.', additionalProperties: false },
)

export const InstancePage = PageOf(Instance)

const count = (description: string) => Type.Integer({ description })

/** What a write would do. */
export const InstancePlan = Type.Object(
  {
    dry_run: Type.Literal(true, { description: 'Nothing was changed.' }),
    action: Type.String({ description: 'The operation.', examples: ['createInstance'] }),
    would_answer: Type.Integer({ description: 'HTTP status of the answer without `dry_run`.', examples: [201] }),
    before: Type.Union([ref(Instance), Type.Null()], { description: 'As it is; null for a new instance.' }),
    after: {
      ...ref(Instance),
      description: 'As it would be answered; id and addresses of a new one are examples, chosen when it is made.',
    },
    placement: Type.Object(
      { region: Type.String({ description: 'The region.', examples: ['us-east-1'] }), hypervisor: Hypervisor },
      { description: 'Where it would run.', additionalProperties: false },
    ),
    capacity: Type.Union([RegionCapacity, Type.Null()], {
      description: 'Of the region, with this write counted; null where there is no limit.',
    }),
    quotas: Type.Array(
      Type.Object(
        {
          name: OneOf(QUOTA_NAMES, 'What is counted.'),
          limit: Type.Union([Type.Integer(), Type.Null()], { description: 'Null: no limit.' }),
          used: count('In use now.'),
          would_use: count('In use afterwards.'),
        },
        { additionalProperties: false },
      ),
      { description: "The project's quotas in this environment." },
    ),
    reboots: Type.Boolean({ description: 'Whether a running guest would be restarted.' }),
    steps: Type.Array(OneOf(STEP_NAMES, 'A step.'), { description: 'What would have to be done, in order.' }),
    ready_seconds_lately: Type.Union(
      [
        Type.Object(
          {
            p50: Type.Number({ description: 'Half were up within so many seconds.' }),
            p90: Type.Number({ description: 'Nine of ten were.' }),
            samples: count('Of how many; the last 50 at most.'),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'From request to ready, of instances of this image; null where nothing boots or none has yet.' },
    ),
  },
  { $id: 'InstancePlan', description: 'What a write of an instance would do.', additionalProperties: false },
)

/** What a write answers that can be rehearsed and is 200 anyway. */
export const InstanceOrPlan = Type.Union([ref(Instance), ref(InstancePlan)], {
  $id: 'InstanceOrPlan',
  description: 'The instance, or with `dry_run` what would happen.',
})

/** Parameter of the writes that can be rehearsed. */
export const dryRun = {
  dry_run: Type.Optional(
    Type.Boolean({ default: false, description: 'Change nothing and answer 200 with what would happen.' }),
  ),
}

export const InstanceCreate = Type.Object(
  {
    region,
    plan,
    image,
    network: Type.Optional(
      Type.Object(
        {
          subnet_id: Type.Optional(subnetId),
          assign_public_ip: Type.Optional(Type.Boolean({ default: false, description: 'Give it a public address.' })),
          ports: Type.Optional(
            Type.Array(port, {
              maxItems: 20,
              uniqueItems: true,
              description: 'Ports to open at the public address beyond 22, 80 and 443.',
            }),
          ),
        },
        { description: 'Left out: default subnet, no public address.', additionalProperties: false },
      ),
    ),
    tags: Type.Optional(tags),
    name: Type.Optional(name),
    hostname: Type.Optional(hostname),
    ssh_keys: Type.Optional(sshKeyIds),
    user_data: Type.Optional(userData),
    auto_recovery: Type.Optional(autoRecovery),
    recovery_priority: Type.Optional(recoveryPriority),
    termination_protection: Type.Optional(terminationProtection),
    ready_timeout_seconds: Type.Optional(readyTimeout),
  },
  {
    $id: 'InstanceCreate',
    description: 'What is needed to launch an instance.',
    additionalProperties: false,
    examples: [
      {
        region: 'us-east-1',
        plan: 'standard-4x',
        image: 'ubuntu-22.04-lts',
        network: { subnet_id: 'sub_8f7e6d5c4b', assign_public_ip: true },
        tags: { env: 'production', app: 'api-server' },
      },
    ],
  },
)
export type CreateBody = Static<typeof InstanceCreate>

const ignored = Type.Optional(Type.Unknown({ description: 'Ignored: what GET printed may be sent back.' }))
const fixed = (of: string) =>
  Type.Optional(Text({ maxLength: 64, description: `The ${of} cannot be changed; it may be sent back as it is.` }))

export const InstanceUpdate = Type.Object(
  {
    name: Type.Optional(name),
    plan: Type.Optional(plan),
    tags: Type.Optional({ ...tags, description: 'Replaces all tags.' }),
    network: Type.Optional(
      Type.Object(
        {
          subnet_id: fixed('subnet'),
          assign_public_ip: Type.Optional(
            Type.Boolean({ description: 'Give it a public address, or take it away; without a reboot.' }),
          ),
          ports: Type.Optional(
            Type.Array(
              Type.Union([
                port,
                Type.Object({ port, public_port: ignored }, { additionalProperties: false, description: 'As shown.' }),
              ]),
              { maxItems: 50, description: 'Cannot be changed; may be sent back as they are.' },
            ),
          ),
        },
        { additionalProperties: false, description: 'How it is connected.' },
      ),
    ),
    auto_recovery: Type.Optional(autoRecovery),
    recovery_priority: Type.Optional(recoveryPriority),
    termination_protection: Type.Optional(terminationProtection),
    desired_status: Type.Optional(OneOf(['running', 'stopped'], 'Starts or stops it.')),
    id: fixed('id'),
    region: fixed('region'),
    image: fixed('image'),
    image_id: fixed('image'),
    hostname: fixed('host name'),
    status: ignored,
    status_reason: ignored,
    public_ip: ignored,
    private_ip: ignored,
    links: ignored,
    deployment_id: ignored,
    ready_timeout_seconds: ignored,
    ssh: ignored,
    environment: ignored,
    created_at: ignored,
    ready_at: ignored,
    terminated_at: ignored,
    expires_at: ignored,
    created_by: ignored,
    updated_at: ignored,
    version: ignored,
  },
  {
    $id: 'InstanceUpdate',
    description: 'What is left out stays; all or nothing.',
    additionalProperties: false,
    examples: [{ tags: { env: 'staging' } }],
  },
)
export type UpdateBody = Static<typeof InstanceUpdate>

/** Of start, which has no options; may be left out. */
export const NoOptions = Type.Object(
  {},
  { title: 'NoOptions', additionalProperties: false, description: 'There are no options.' },
)

/** Of stop and reboot; may be left out. */
export const PowerAction = Type.Object(
  {
    timeout_seconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 3600,
        default: 60,
        description: 'How long the guest may take to power off.',
      }),
    ),
    force: Type.Optional(Type.Boolean({ description: 'Pull the plug at once.' })),
  },
  { title: 'PowerAction', additionalProperties: false, description: 'How to end the present run.' },
)
export type ActionBody = Static<typeof PowerAction>

/** Of rebuild; may be left out. */
export const Rebuild = Type.Object(
  {
    image: Type.Optional(image),
    user_data: Type.Optional(userData),
    ssh_keys: Type.Optional(sshKeyIds),
  },
  {
    title: 'Rebuild',
    additionalProperties: false,
    description: 'What is different on the new disk; left out: as before.',
  },
)
export type RebuildBody = Static<typeof Rebuild>

const words = (word: string) => `^(${word})(,(${word}))*$`
const slugs = '[A-Za-z0-9._-]{1,64}'

/** Filters of the list. */
export const instanceFilters = {
  ...listParameters,
  status: Type.Optional(
    Type.String({
      pattern: words(STATUSES.join('|')),
      'x-rule': `one or more of ${STATUSES.join(', ')}, by comma`,
      description: 'Terminated instances are listed only when asked for.',
    }),
  ),
  region: Type.Optional(
    Type.String({ pattern: words(slugs), 'x-rule': 'names of regions, by comma', description: 'In these regions.' }),
  ),
  plan: Type.Optional(
    Type.String({ pattern: words(slugs), 'x-rule': 'names of plans, by comma', description: 'Of these plans.' }),
  ),
  image: Type.Optional(
    Type.String({
      pattern: words(slugs),
      'x-rule': 'names or ids of images, by comma',
      description: 'Of these images, by name as asked or by id.',
    }),
  ),
  deployment_id: Type.Optional(
    Type.String({
      pattern: words('dep_[0-9a-z]{10}'),
      'x-rule': 'ids of deployments, by comma',
      description: 'Of these.',
    }),
  ),
  created_by: Type.Optional(
    Type.String({
      pattern: words('key_[0-9a-z]{10}'),
      'x-rule': 'ids of API keys, by comma',
      description: 'Made by these keys.',
    }),
  ),
  name: Type.Optional(
    Type.String({
      pattern: '^[A-Za-z0-9._ ,-]{1,640}$',
      'x-rule': 'names, by comma',
      description: 'With these names.',
    }),
  ),
  tag: Type.Optional(
    Type.Array(Type.String({ pattern: '^[A-Za-z0-9._/-]{1,63}:[^\\p{Cc}\\p{Cs}]{0,256}$', 'x-rule': 'key:value' }), {
      maxItems: 50,
      description: 'With this tag, `key:value` split at the first colon; repeatable, all must match.',
    }),
  ),
}
export type Filters = {
  status?: string
  region?: string
  plan?: string
  image?: string
  deployment_id?: string
  created_by?: string
  name?: string
  tag?: string[]
}
