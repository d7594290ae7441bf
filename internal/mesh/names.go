package mesh

// Objects that Garrison owns, in [SystemNamespace] unless said otherwise.
const (
	SystemNamespace = "istio-system"

	InjectorService = "istio-sidecar-injector" // port 443
	CitadelService  = "istio-citadel"          // port 8060

	// InjectorWebhook names the MutatingWebhookConfiguration; each of its
	// entries ends in InjectorWebhookSuffix.
	InjectorWebhook       = "istio-sidecar-injector"
	InjectorWebhookSuffix = "sidecar-injector.istio.io"

	CASecret  = "istio-ca-secret"
	CACertKey = "ca-cert.pem" // in CASecret: the signing certificate
	CAKeyKey  = "ca-key.pem"  // in CASecret: its private key

	// IntermediateSecret holds the certificate below the root of CASecret that signs in
	// its place, under the same keys, and remembers where the CA came from.
	IntermediateSecret = "garrison-ca-intermediate"
	EarlierCertsKey    = "earlier-certs.pem" // in IntermediateSecret: those that signed before and have not ended

	PluggedSecret = "cacerts"    // a CA that the operator brings
	CRLKey        = "ca-crl.pem" // in PluggedSecret

	// OverlaysConfigMap holds the overlays that pods may choose, one for each key.
	OverlaysConfigMap = "garrison-injector-overlays"

	// SelfTestNamespace holds nothing: the injector asks the API server what would
	// become of a pod in it. So do SelfTestEnabledNamespace, which is labelled
	// istio-injection=enabled, and those of [SelfTestRevisionNamespace]. All of them
	// carry SelfTestLabel.
	SelfTestNamespace        = "garrison-self-test"
	SelfTestEnabledNamespace = "garrison-self-test-enabled"
	SelfTestLabel            = "garrison.io/self-test"

	// IssuanceLogConfigMap holds the newest checkpoint of each replica's issuance log, and
	// IssuanceLogSecret, under IssuanceLogKey, the key that signs them, which signs nothing else.
	IssuanceLogConfigMap = "garrison-issuance-log"
	IssuanceLogSecret    = "garrison-issuance-log-key"
	IssuanceLogKey       = "key.pem"

	// CAKeysLabel marks a namespace besides Citadel's own where it may write the Secrets
	// of the CA.
	CAKeysLabel = "garrison.io/ca-keys"

	// LegacyRootConfigMap, in Citadel's namespace, is where node agents of Istio 1.1
	// look for the roots: in base64, although it is text already.
	LegacyRootConfigMap = "istio-security"
	LegacyRootKey       = "caTLSRootCert"

	// RevocationsConfigMap lists whom Citadel refuses, under its only key,
	// RevocationsKey.
	RevocationsConfigMap = "garrison-revocations"
	RevocationsKey       = "revocations.yaml"

	RootConfigMap = "istio-ca-root-cert" // in every namespace that may hold workloads
	RootKey       = "root-cert.pem"      // the only key of RootConfigMap that Garrison owns
)

// SelfTestRevisionNamespace returns the name of the namespace for the self-test that is
// labelled istio.io/rev with a revision or tag.
func SelfTestRevisionNamespace(word string) string { return SelfTestNamespace + "-rev-" + word }

// Leases of the replicas that write, in [SystemNamespace]. The RBAC rules of the
// manifests name them.
const (
	InjectorLease = "garrison-injector"
	CitadelLease  = "garrison-citadel"
)

// LeaseMarks is the annotation of a Lease by which its holder tells the next ones what was
// done that is done once, separated by commas.
const LeaseMarks = "garrison.io/done"

// Secret types, as Istio names them.
const (
	WorkloadSecretType = "istio.io/key-and-cert"
	CASecretType       = "istio.io/ca-root"
)

// IntermediateSecretType is a type of Garrison's own: what looks for roots by Istio's
// type must not find what is none, and what removes workload Secrets by theirs must
// not remove it.
const IntermediateSecretType = "garrison.io/ca-intermediate"

// CASourceAnnotation tells, on [IntermediateSecret], which kind of CA signed last, so
// that one that was plugged in and is gone is not taken for a cluster without one.
const (
	CASourceAnnotation = "garrison.io/ca-source"
	CASelfSigned       = "self-signed"
	CAPlugged          = "plugged"
)

// ServiceAccountAnnotation tells people whose certificate a Secret holds. Nothing
// trusts it: the Secret's name decides.
const ServiceAccountAnnotation = "istio.io/service-account.name"

// Annotations by which Citadel tells, on the Secret of a service account, what is in
// it, for people and for a look at many Secrets without reading their keys. They say
// what to look at first; what a Secret is worth, only its content says.
const (
	SecretExpiry  = "garrison.io/certificate-expires" // RFC 3339
	SecretDigest  = "garrison.io/certificate-sha256"  // of the leaf's DER, in hex
	SecretRoots   = "garrison.io/roots-sha256"        // of root-cert.pem, in hex
	SecretAccount = "garrison.io/service-account-uid" // whom it was made for
)

// WorkloadSecretPrefix precedes the service account in the name of its Secret.
const WorkloadSecretPrefix = "istio."

// WorkloadSecret returns the name of the Secret that holds a service account's
// certificate.
func WorkloadSecret(account string) string { return WorkloadSecretPrefix + account }

// ServerAccount returns the service account that the server behind a Service
// runs as.
func ServerAccount(service string) string { return service + "-service-account" }

// ManagedBy is the value of the label app.kubernetes.io/managed-by on all that
// Garrison makes.
const (
	ManagedByLabel = "app.kubernetes.io/managed-by"
	ManagedBy      = "garrison"
)

// ConfigLabel is "true" on the root ConfigMaps, as Istio's controllers and their
// cleaners look for it.
const ConfigLabel = "istio.io/config"

// Field managers of server-side apply: under these names the API server records
// which fields Garrison owns.
const (
	CitadelFieldManager  = "garrison-citadel"
	InjectorFieldManager = "garrison-injector"
)

// What Citadel's answers say besides Istio's: the number of a request, by which it is
// found in the record, as a gRPC trailer, and whose reasons the details of an error are.
const (
	RequestTrailer = "garrison-request"
	ErrorDomain    = "garrison.io"
)

// DefaultClusterDomain is the DNS suffix of cluster services.
const DefaultClusterDomain = "cluster.local"

// OriginOID is the object identifier of the extension by which a certificate says how
// its holder was proven, which is what renewing by certificate rests on. Nobody gave
// it to us: the last seven parts are a random number, under an arc for such numbers.
// docs/decisions/0011-origin-extension.md tells more.
const OriginOID = "1.2.840.113556.1.8000.2554.20482.42473.19826.17426.43048.3659927.15122759"
